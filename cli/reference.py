"""--reference: which images means and noise are taken over, and which `another` draws from."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ..circuits.task import Task
    from ..models.hooked import HookedViT

ALL, DISCOVERY = "all", "discovery"


def reference_folder(vit: HookedViT, reference: str) -> Tensor | None:
    """The pictures of the folder that --reference names, (image, channel, height, width); None for its two words.

    Raises:
        DataError: There is no such folder, it holds no picture, or the model has no preprocessing to read one with.
    """
    if reference in (ALL, DISCOVERY):
        return None
    import torch

    from ..models.image_sources import SUFFIXES, read_picture

    folder = Path(reference).expanduser()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files or vit.preprocess is None:
        lacking = "no pictures are there" if vit.preprocess is not None else f"{vit.cfg.name} has no preprocessing"
        raise DataError(
            f"--reference {reference} cannot be read ({lacking}): pass a folder of pictures ({', '.join(SUFFIXES)}), "
            f"all (images of all classes of the data), or discovery (the discovery images)."
        )
    return torch.stack([read_picture(path, vit.preprocess) for path in files])


def with_reference(task: Task, reference: str) -> Task:
    """The task with what --reference says, which its record then tells."""
    if reference == DISCOVERY:
        task = dataclasses.replace(task, reference_images=None)
    told = {**task.info, "reference": reference, "n_reference": len(task.reference)}
    if reference not in (ALL, DISCOVERY):  # a folder's pictures may change under the same name
        told["reference_digest"] = hashlib.sha256(_bytes(task.reference)).hexdigest()
    return dataclasses.replace(task, info=told)


def _bytes(images: Tensor) -> Any:
    return images.cpu().contiguous().float().numpy().tobytes()

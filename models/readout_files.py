"""Readouts in files: one that was made here, and class embeddings that were made anywhere.

Both are safetensors. The keys of a file that holds text directions:

| where | key | what |
| --- | --- | --- |
| tensor | `embeddings` | (class, dim), a vector per class, of any length; needed |
| tensor | `scale` | one number that cosines are multiplied by, exp(logit_scale); 100 where it is missing |
| tensor | `bias` | one number added to every logit, where there is one |
| metadata | `classes` | a JSON list of names; else a text file of the same name beside it, one name per line |
| metadata | `vitcircuits` | what a readout that was saved here is: a JSON table; files from elsewhere lack it |

A probe has the tensors `weight` (class, model) and `bias` (class,). Everything a file says is checked: what is loaded
is equal to what was saved, or it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .cards import READOUT_FILE
from .errors import FormatError
from .files import READOUTS, is_folder, require_file, user_path, write_bytes_atomic
from .hooked import HookedViT
from .readouts import TextHead, head_digest, head_tensors

READOUT_SCHEMA = "vitcircuits.readout/1"

CLIP_SCALE = 100.0  # where CLIP's training stops the scale from growing


def save_class_embeddings(
    path: str | Path,
    embeddings: Float[Tensor, "class dim"],
    classes: Sequence[str],
    *,
    scale: float = CLIP_SCALE,
    bias: float | None = None,
) -> Path:
    """Writes class embeddings for `load_readout` and `--readout`, and returns the path.

    Args:
        path: A `.safetensors` file.
        embeddings: A vector per class, from any text tower.
        classes: Names of the classes.
        scale: What cosines are multiplied by: exp(logit_scale).
        bias: What is added to every logit (SigLIP's logit_bias).

    Raises:
        FormatError: There is not one name per class, or the file cannot be written.
    """
    if len(classes) != len(embeddings):
        raise FormatError(f"there are {len(embeddings)} embeddings but {len(classes)} classes: pass one name for each.")
    tensors = {"embeddings": embeddings, "scale": torch.tensor(scale, dtype=embeddings.dtype, device="cpu")}
    if bias is not None:
        tensors["bias"] = torch.tensor(bias, dtype=embeddings.dtype, device="cpu")
    return _write(Path(path), tensors, {"classes": json.dumps(list(classes), ensure_ascii=False)})


def save_readout(vit: HookedViT, path: str | Path) -> Path:
    """Writes a readout that took the place of the ViT's own, and returns the path.

    The weights of the ViT are not in it: a text readout keeps the image tower's projection by reference.

    Raises:
        FormatError: The readout is the ViT's own, its head is of a kind that cannot be written, or the file cannot be
            written.
    """
    head, info = vit.readout.head, vit.readout.info
    if "sha256" not in info:
        raise FormatError(
            f"{vit.cfg.name} has its own readout, which is saved with its weights: save_readout is for one that was "
            f"given by text_readout, probe_readout or with_readout."
        )
    project = getattr(head, "project", None)
    shown = "own" if project is vit.own_readout.head else _KINDS.get(type(project), "")
    if type(head) not in (nn.Linear, nn.Identity, TextHead) or not shown:
        raise FormatError(
            f"a head of type {type(head).__name__}{f' over a {type(project).__name__}' if project else ''} cannot be "
            f"saved: nn.Linear and TextHead over a linear projection can."
        )
    header = {"schema": READOUT_SCHEMA, "head": type(head).__name__, "project": shown, **info}
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    return _write(Path(path), head_tensors(head, vit.own_readout.head), {"vitcircuits": text})


def save_beside(vit: HookedViT, folder: Path) -> list[Path]:
    """Writes the readout into a folder, for a circuit, where it is not the ViT's own; what was written.

    Raises:
        FormatError: The readout is of a kind that cannot be written.
    """
    return [save_readout(vit, folder / READOUT_FILE)] if "sha256" in vit.readout.info else []


_KINDS: dict[type, str] = {type(None): "none", nn.Identity: "identity", nn.Linear: "linear"}


def load_readout(
    vit: HookedViT, path: str | Path, *, classes: Sequence[str] | None = None, sha256: str | None = None
) -> HookedViT:
    """The same ViT under the readout in a file.

    Args:
        vit: The ViT; of a text readout that was saved with its own projection, the same image tower.
        path: What `save_readout` or `save_class_embeddings` wrote, or class embeddings from elsewhere (keys: see the
            module).
        classes: Names of the classes, where the file has none.
        sha256: The digest of the readout that is wanted, as a circuit records it.

    Raises:
        FormatError: There is no such file, it holds no readout, or another than is wanted.
        ModelError: The readout does not fit the ViT.
    """
    path = user_path(path)
    path = path / READOUT_FILE if is_folder(path) else path  # of a run
    tensors, metadata = _read(path)
    if "vitcircuits" in metadata:
        header = _header(path, tensors, metadata["vitcircuits"])
        found, digest = _restore(vit, path, tensors, header), header["sha256"]
    else:
        found = _from_embeddings(vit, path, tensors, _names(path, metadata) if classes is None else classes)
        digest = found.readout.info["sha256"]
    if sha256 is not None and digest != sha256:
        raise FormatError(
            f"{path} holds another readout (sha256 {digest[:12]}...) than is wanted ({sha256[:12]}...): pass the file "
            f"that was saved with the circuit."
        )
    return found


def _restore(vit: HookedViT, path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> HookedViT:
    info = {key: value for key, value in header.items() if key not in ("schema", "head", "project", "sha256")}
    try:
        head = _HEADS[header["head"]](tensors, header["project"], vit)
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise FormatError(f"{path} lacks {error}: it was cut off or edited; save the readout again.") from error
    return vit.with_readout(head, info["classes"] or None, pool=info["pool"], info=info)


def _linear(tensors: Mapping[str, Tensor], prefix: str = "") -> nn.Linear:
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device="cpu")
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return linear.requires_grad_(False)


def _text_head(tensors: Mapping[str, Tensor], project: str, vit: HookedViT) -> TextHead:
    projects = {
        "own": lambda: vit.own_readout.head,
        "identity": nn.Identity,
        "linear": lambda: _linear(tensors, "project."),
    }
    bias = tensors.get("bias")
    head = TextHead(projects[project](), tensors["embeddings"], scale=float(tensors["scale"]))
    head.embeddings, head.scale, head.bias = tensors["embeddings"], tensors["scale"], bias  # not normalised twice
    return head


_HEADS: dict[str, Any] = {
    "Linear": lambda tensors, project, vit: _linear(tensors),
    "Identity": lambda tensors, project, vit: nn.Identity(),
    "TextHead": _text_head,
}


def _from_embeddings(vit: HookedViT, path: Path, tensors: dict[str, Tensor], classes: Sequence[str]) -> HookedViT:
    embeddings = tensors.get("embeddings")
    if embeddings is None or embeddings.ndim != 2:
        raise FormatError(
            f"{path} holds {', '.join(sorted(tensors)[:5]) or 'nothing'}, but class embeddings have a tensor "
            f"'embeddings' (class, dim): write them by save_class_embeddings."
        )
    if len(classes) != len(embeddings):
        raise FormatError(f"{path} holds {len(embeddings)} embeddings but {len(classes)} names: one each is wanted.")
    scale = float(tensors["scale"]) if "scale" in tensors else CLIP_SCALE
    bias = float(tensors["bias"]) if "bias" in tensors else None
    head = TextHead(vit.own_readout.head, embeddings.to(device=vit.device, dtype=vit.sum_dtype), scale=scale, bias=bias)
    return vit.with_readout(head, classes, info={"kind": "text", "file": path.name, "scale": scale, "bias": bias})


def _names(path: Path, metadata: Mapping[str, str]) -> list[str]:
    beside = path.with_suffix(".txt")
    try:
        if "classes" in metadata:
            return [str(name) for name in json.loads(metadata["classes"])]
        return [line.strip() for line in beside.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path} does not name its classes: its metadata needs an entry 'classes', a JSON list, or {beside.name} "
            f"beside it one name per line. Write the file by save_class_embeddings, or pass classes=."
        ) from error


def _header(path: Path, tensors: dict[str, Tensor], text: str) -> dict[str, Any]:
    """What a readout that was saved here says of itself, if its tensors are those that it was saved with."""
    try:
        header = json.loads(text)
        schema = header["schema"]
        if schema != READOUT_SCHEMA:
            raise FormatError(f"{path} follows {schema!r}, but {READOUT_SCHEMA!r} was wanted: it holds something else.")
        digest = head_digest(tensors, header)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is no readout: its metadata cannot be read ({error}). Save it again.") from error
    if digest != header.get("sha256"):
        raise FormatError(f"{path} does not hold what its sha256 says: it was edited; save the readout again.")
    return header


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    require_file(path, READOUTS, FormatError)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} is not a safetensors file: {error}. Save it again.") from error


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    from safetensors.torch import save

    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return write_bytes_atomic(path, save(whole, metadata=metadata))

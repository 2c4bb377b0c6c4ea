"""Which model a run takes, and what takes the place of its own head: a typed value that opens it.

Nothing here imports torch before a model is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import processes
from .cards import CARD_FILE, READOUT_FILE
from .errors import FormatError, ModelError, TaskError
from .files import READOUTS, WEIGHT_ENDINGS, WEIGHT_FILES, is_folder, require_file, user_path
from .settings import DTYPES, Settings, nearest, setting, short
from .watching import say

if TYPE_CHECKING:
    from .hooked import HookedViT

PROBE_IMAGES = 200  # of each class
PROBES, POOLS = ("means", "ridge"), ("own", "cls", "patches")


def read_device(text: str) -> str:
    """A device that PyTorch may have; whether this machine has it is seen when it is used."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", text):
        raise ValueError("pass cpu, cuda, cuda:1, mps or xpu, such as --device cpu")
    return text


@dataclass(frozen=True, repr=False)
class ModelConfig(Settings):
    """A model by name, its weights, where it computes, and its readout.

    Raises:
        TaskError: Settings don't go together, or a value is not known.
    """

    model: str | None = setting(
        None,
        "toy/digits-2l, planted/neighbour-xor, a timm name (or hf-hub:..., local-dir:...), a folder, a file",
        metavar="NAME",
    )
    checkpoint: str | None = setting(
        None, "weights for a timm name: .safetensors, .pth, .pt or .bin without code", metavar="FILE"
    )
    device: str = setting("cpu", "cpu (default), cuda, mps", read=read_device, metavar="DEVICE")
    dtype: str | None = setting(
        None,
        "what the passes are in: float32 (default), bfloat16 or float16; sums, scores, metrics and decisions keep "
        "float32 or more",
        choices=DTYPES,
        metavar="DTYPE",
    )
    attention_mask: str | None = setting(
        None,
        "causal, or a .npy file of booleans (token, token), True where a row's token may see a column's",
        metavar="MASK",
    )
    readout: str | None = setting(
        None, "a saved readout.safetensors, or class embeddings for a CLIP tower", metavar="FILE"
    )
    prompts: list[str] | None = setting(
        None,
        "logits of a CLIP image tower: a class name, put into --templates, or cat='a cat'; several texts of one class "
        "are averaged (needs the extra clip)",
        metavar="CLASS[=TEXT]",
        many=True,
    )
    probe: str | None = setting(
        None,
        f"fitted on at most {PROBE_IMAGES} images of each class of the data's training split: the nearest class mean "
        "(means), or ridge regression with a penalty chosen by leave-one-out error (ridge)",
        choices=PROBES,
        metavar="KIND",
    )
    templates: list[str] | None = setting(
        None,
        "with {} for the class name, of --prompts ('a photo of a {}.'); or openai (80 of them), simple (7)",
        metavar="TEXT",
        many=True,
    )
    clip: str | None = setting(
        None,
        "text tower of --prompts: ViT-B-16:openai, hf-hub:org/repo, local-dir:/path (by default the model's own)",
        metavar="NAME:TAG",
    )
    pool: str | None = setting(
        None,
        "what --probe sees: what the model's own head gets (own, default), the class token (cls), the mean of the "
        "patches (patches)",
        choices=POOLS,
        metavar="CHOICE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, other in (("templates", "prompts"), ("clip", "prompts"), ("pool", "probe")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise TaskError(f"--{name} has no use without --{other}: leave it out, or pass --{other} too.")
        if sum(value is not None for value in (self.readout, self.prompts, self.probe)) > 1:
            raise TaskError("--readout, --prompts and --probe each give the logits: pass one of them.")

    def require_found(self) -> None:
        """Does nothing if the files that the settings name are there, and what reads them is installed.

        Looks at no file's content and imports nothing, so that these mistakes are said at once.

        Raises:
            ModelError: Something is not there.
        """
        if self.model is None:
            raise TaskError("no model is named: pass --model, such as --model toy/digits-2l.")
        toys = Path(__file__).parent / "weights"
        if self.model.startswith("toy/") and not (toys / self.model.removeprefix("toy/") / CARD_FILE).is_file():
            known = [f"toy/{path.parent.name}" for path in sorted(toys.glob(f"*/{CARD_FILE}"))]
            raise ModelError(f"there is no model {short(self.model)}.{nearest(self.model, known)}")
        if Path(self.model).suffix in WEIGHT_ENDINGS and ":" not in self.model:
            require_file(self.model, WEIGHT_FILES)
        if self.checkpoint is not None:
            require_file(self.checkpoint, WEIGHT_FILES)
        if self.readout is not None and not is_folder(user_path(self.readout)):
            require_file(self.readout, READOUTS, FormatError)
        if self.attention_mask is not None and self.attention_mask.endswith(".npy"):
            require_file(self.attention_mask, "a .npy file of booleans")
        own = self.model.startswith("toy/") or is_folder(user_path(self.clip or self.model))  # have text towers
        if self.prompts is not None and not own and find_spec("open_clip") is None:
            raise ModelError("--prompts needs the extra clip, which is not installed: pip install 'vitcircuits[clip]'.")

    def load(
        self,
        data: str | None = None,
        *,
        data_dir: str | Path | None = None,
        seed: int = 0,
        saved: tuple[Path, Mapping[str, Any]] | None = None,
    ) -> HookedViT:
        """The opened model under its readout.

        Args:
            data: What a probe is fitted on, as `load_data` takes it.
            data_dir: Where MNIST's files lie.
            seed: Draws the probe's images.
            saved: The folder of a circuit and what it records of its readout, for where no setting names one.

        Raises:
            ModelError: The model cannot be opened.
            TaskError: The device or the readout cannot be used.
        """
        self.require_found()
        from .load import load_vit

        assert self.model is not None
        mask, device = read_mask(self.attention_mask), usable_device(self.device)
        options = {"checkpoint": self.checkpoint, "device": device, "attention_mask": mask, "dtype": self.dtype}
        vit = load_vit(self.model, **options)
        if self.prompts is not None:
            from .made_readouts import text_readout

            prompts, templates = parse_prompts(self.prompts, self.templates)
            return text_readout(vit, prompts, templates=templates, clip=self.clip)
        if self.probe is not None:
            return self._probed(vit, data, data_dir, seed)
        if self.readout is not None:
            from .readout_files import load_readout

            return load_readout(vit, self.readout)
        return vit if saved is None else _saved(vit, *saved)

    def _probed(self, vit: HookedViT, data: str | None, data_dir: str | Path | None, seed: int) -> HookedViT:
        from .data import load_data
        from .made_readouts import probe_readout

        loaded = load_data(data, vit.preprocess, data_dir=data_dir, seed=seed, limit=PROBE_IMAGES)
        return probe_readout(
            vit,
            loaded.train.images,
            loaded.train.labels,
            kind=self.probe,  # type: ignore[arg-type]  # one of PROBES
            pool=self.pool or "own",  # type: ignore[arg-type]
            classes=loaded.class_names,
            source=f"{loaded.name}, training split",
        )


def read_mask(text: str | None) -> Any:
    """The attention mask that a setting names: None, `causal`, or a boolean tensor from a .npy file.

    Raises:
        ModelError: The file is not there, or does not hold booleans.
    """
    if text is None or not text.endswith(".npy"):
        return text
    import numpy as np
    import torch

    try:
        mask = np.load(text, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{text} cannot be read as an attention mask ({error}): write one with numpy.save.") from error
    if mask.dtype != bool:
        raise ModelError(f"{text} holds {mask.dtype}, but a mask is boolean: save mask.astype(bool).")
    return torch.from_numpy(mask)


def usable_device(device: str) -> str:
    """The device, if this machine has it; for mps the CPU, with a sentence. Of joined processes each has a GPU.

    Raises:
        TaskError: It has not.
    """
    if device == "cpu":
        return device
    import torch

    if device.startswith("mps"):  # decided on differences that float32 sums would lose
        say(f"the device {device} has no float64, in which scores are added up: computing on the CPU.", True)
        return "cpu"
    if device == "cuda" and processes.started() > 1:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TaskError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0].rstrip('.')}. Pass --device cpu."
        ) from error
    return device


def parse_prompts(texts: list[str], templates: list[str] | None) -> tuple[Any, Any]:
    """What `text_readout` takes as prompts and templates: names, or class name -> texts.

    Raises:
        TaskError: A text has no class, or templates are of no use.
    """
    from .made_readouts import DEFAULT_TEMPLATE, TEMPLATE_SETS, class_texts

    chosen: Any = DEFAULT_TEMPLATE if templates is None else templates
    if templates is not None and len(templates) == 1 and templates[0] in TEMPLATE_SETS:
        chosen = templates[0]
    parts = [text.partition("=") for text in texts]
    if not any(equals for _, equals, _ in parts):
        return texts, chosen
    if templates is not None and all(equals for _, equals, _ in parts):
        raise TaskError("--templates have no use where every class has its text: leave them out, or the texts.")
    found: dict[str, list[str]] = {}
    for name, equals, text in parts:
        if not name.strip() or (equals and not text.strip()):
            raise TaskError(
                f"--prompts {name}{equals}{text}: pass CLASS or CLASS=TEXT, such as cat='a photo of a cat'."
            )
        found.setdefault(name, []).extend([text] if equals else class_texts([name], chosen)[name])
    return found, chosen


def _saved(vit: HookedViT, folder: Path, recorded: Mapping[str, Any]) -> HookedViT:
    from .readout_files import load_readout

    path = folder / READOUT_FILE
    if not path.is_file():
        raise TaskError(
            f"the circuit was found under another readout than the model's own ({describe_readout(recorded)}), which "
            f"is not beside it: pass --readout {READOUT_FILE} from the folder that it was saved in."
        )
    return load_readout(vit, path, sha256=recorded["sha256"])


def describe_readout(info: Mapping[str, Any]) -> str:
    """One line about a readout."""
    classes = [str(name) for name in info.get("classes", ())]
    shown = f" of {', '.join(classes[:4])}{f', ... ({len(classes)})' if len(classes) > 4 else ''}" if classes else ""
    more = [
        f"{name} {info[name]:.4g}" if isinstance(info[name], float) else f"{name} {info[name]}"
        for name in ("text_tower", "penalty", "pool")
        if info.get(name) not in (None, "own")
    ]
    return f"{info['kind']}{shown}" + (f" ({', '.join(more)})" if more else "")

"""How the models of other libraries want their pictures, from what open_clip and transformers write about it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from .config import VitConfig
from .preprocess import Interpolation, Preprocess

_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_FILES = (  # and where in them
    ("preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "video_processor"),
)


def preprocess_of_open_clip(model: Any) -> Preprocess | None:
    """The preprocessing of an open_clip model; None where it pads pictures, which is not done here."""
    said: Mapping[str, Any] = getattr(model.visual, "preprocess_cfg", {})
    if said.get("resize_mode", "shortest") not in ("shortest", "squash") or not said:
        return None
    interpolation = str(said.get("interpolation"))
    return Preprocess(
        size=_pair(said["size"]),
        channels=3,
        mean=tuple(float(value) for value in said["mean"]),
        std=tuple(float(value) for value in said["std"]),
        interpolation=interpolation if interpolation in get_args(Interpolation) else "bicubic",
        squash=said.get("resize_mode") == "squash",
    )


def preprocess_of_folder(path: Path, cfg: VitConfig) -> Preprocess | None:
    """The preprocessing that a folder of transformers' names, of one frame if the model takes clips; None without."""
    said, channels = _read(path), cfg.n_channels // cfg.clip_frames
    if not said or channels not in (1, 3):
        return None
    mean, std = _statistics(said, channels)
    edge = _edge(said)
    cropped = said.get("do_center_crop", False) and edge is not None
    return Preprocess(
        size=cfg.image_size,
        channels=channels,
        mean=mean,
        std=std,
        crop_pct=_crop_pct(min(cfg.image_size), edge) if cropped and edge is not None else 1.0,
        interpolation=_RESAMPLE.get(said.get("resample", 2), "bicubic"),
        squash=not cropped and edge is None,
    )


def shown_size(path: Path) -> int | tuple[int, int] | None:
    """Height and width that a folder's preprocessing crops pictures to; None where it says nothing of it."""
    said = _read(path)
    crop = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
    if isinstance(crop, Mapping):
        return (int(crop["height"]), int(crop["width"])) if "height" in crop else None
    return int(crop) if isinstance(crop, int) else None


def _read(path: Path) -> dict[str, Any]:
    for name, key in _FILES:
        try:
            found = json.loads((path / name).read_text(encoding="utf-8"))
            found = found[key] if key else found
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, dict) and ("image_mean" in found or "size" in found):
            return found
    return {}


def _edge(said: Mapping[str, Any]) -> int | None:
    """The shorter side that a picture is resized to before it is cropped; None where it is resized to a shape."""
    size = said.get("size")
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if size.get("shortest_edge") else None
    return int(size) if isinstance(size, int) and said.get("do_center_crop") else None


def _crop_pct(side: int, edge: int) -> float:
    """The part of the resized side that is kept, such that side / part rounds down to the edge."""
    if edge <= side:
        return 1.0
    exact = side / edge
    return exact if math.floor(side / exact) == edge else side / (edge + 0.5)


def _statistics(said: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in [0, 1], where a processor scales pixels of 0 to 255, may subtract 1, and normalises."""
    scale = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    shifted = said.get("offset") or said.get("video_processor_type") == "VivitVideoProcessor"  # which always does
    offset = 1.0 if shifted and said.get("do_rescale", True) else 0.0
    normalised = said.get("do_normalize", True)
    mean = _per_channel(said.get("image_mean") if normalised else 0.0, channels, 0.0)
    std = _per_channel(said.get("image_std") if normalised else 1.0, channels, 1.0)
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)


def _per_channel(values: Any, channels: int, default: float) -> tuple[float, ...]:
    found = values if isinstance(values, Sequence) else [default if values is None else values]
    found = [float(value) for value in found]
    return tuple(found) if len(found) == channels else (sum(found) / len(found),) * channels


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)

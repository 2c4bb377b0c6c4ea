"""Where attention heads look, in one call: arrays with names, of every model that opens.

    attention_maps(vit, images)["a3.h1"]                        # (image, query token, key token)

Four kinds, for a query token i and a key token j of a head:

- `pattern`: the weights, softmax over j of the scores; rows add up to 1.
- `score`: what enters that softmax, q_i . k_j / sqrt(d_head) after norms and rotations of q and k, with the mask;
  where the mask forbids j it is minus infinity.
- `value_weighted`: ||pattern_ij v_j W_O||, the length of what the head writes at i because of j, with the rows of the
  output projection (and LayerScale) that belong to the head, without the projection's bias (Kobayashi et al. 2020,
  "Attention is not only a weight", section 3: the norm of the transformed vector, not that of the value). A norm in
  front of the projection keeps the standard deviation that it has on the image; a gate is applied.
- `rollout`: per layer A = (I + mean over heads of the pattern) / 2, multiplied from the first layer up to this one
  (Abnar & Zuidema 2020, section 3): how much of token j's input arrives at token i if values and MLPs moved nothing.
  One map for each layer; rows add up to 1.

None of them says what a head is for: a token that gets much attention may carry nothing that is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..models.attention_layers import Rollout, read_layers
from ..models.config import VitConfig
from ..models.errors import TaskError, did_you_mean
from ..models.hooked import HookedViT
from ..models.watching import progress_bar
from .baseline import DEFAULT_MEMORY
from .formats import found
from .memory import pairs_within
from .report import Table, Tabular
from .shown import drawable

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

Kind = Literal["pattern", "score", "value_weighted", "rollout"]
Queries = Literal["each", "readout"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMaps(Tabular, Mapping[str, NDArray[np.float32]]):
    """Attention by head, a mapping from `a3.h1` (or `rollout@3`) to an array (image, query token, key token).

    Args:
        kind: What the numbers are; see above.
        maps: Name -> array, read-only.
        queries: Name -> names of the query tokens: all tokens; in attention pooling `pool` alone; of
            `queries="readout"` one row, such as `cls`, or `mean` over the tokens.
        tokens: Names of the key tokens, in the order of `TokenLayout`; the pool, which nothing sees, is not among them.
        grid: Patch rows and columns.
        n_prefix: Key tokens in front of the patches.
        frames: Frames of a video's tubelets; 1 for images.
        model: The model's name.
    """

    kind: Kind | str
    maps: Mapping[str, NDArray[np.float32]]
    queries: Mapping[str, tuple[str, ...]]
    tokens: tuple[str, ...]
    grid: tuple[int, int]
    n_prefix: int = 0
    frames: int = 1
    model: str = "vit"

    def __post_init__(self) -> None:
        for array in self.maps.values():
            array.setflags(write=False)
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))

    def __eq__(self, other: object) -> bool:  # a mapping's own would ask whether arrays are true
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self.maps:
            raise KeyError(f"{name!r} is not among the {len(self.maps)} maps.{did_you_mean(str(name), self.maps)}")
        return self.maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(next(iter(self.maps.values())))

    def readout(self, name: str) -> NDArray[np.float32]:
        """What the tokens that are read out see through a head, shape (image, key token).

        The row of CLS, with a distillation token the mean of both rows, without either the mean over all tokens; in
        attention pooling the pool's row.
        """
        read = [place for place, query in enumerate(self.queries[name]) if query in ("cls", "dist")]
        return self[name][:, read or slice(None)].mean(1)

    def on_image(self, name: str, image: int = 0, query: str | None = None) -> NDArray[np.float32]:
        """A head's map over the picture, (row, column): the patches alone, of a video summed over frames.

        Args:
            name: `a3.h1`, or `rollout@3`.
            image: Which image.
            query: Name of the token that looks, such as `cls` or `r3c7`; by default those that are read out.

        Raises:
            TaskError: The token is not among the head's queries.
        """
        row = self.readout(name)[image] if query is None else self[name][image, self._place(name, query)]
        rows, columns = self.grid
        patches = row[self.n_prefix :].reshape(self.frames, rows, columns)
        return patches[0] if self.frames == 1 else patches.sum(0)

    def heights(self, image: int = 0, query: str | None = None) -> dict[str, NDArray[np.float32]]:
        """All maps over one picture as they are coloured: scores and rollout, which have no zero, above the least."""
        found = {name: self.on_image(name, image, query) for name in self}
        if self.kind not in ("score", "rollout"):
            return found
        return {
            name: np.where(known := np.isfinite(values), values - values.min(where=known, initial=np.inf), 0)
            for name, values in found.items()
        }

    def _place(self, name: str, query: str) -> int:
        known = self.queries[name]
        if query not in known:
            some = ", ".join(known[:4]) + ", ..." * (len(known) > 4)
            raise TaskError(f"{name} has no query {query!r}; it has {some}.{did_you_mean(query, known)}")
        return known.index(query)

    @property
    def headline(self) -> str:
        """Kind, model and sizes."""
        what = f"{len(self)} maps" if self.kind == "rollout" else f"{len(self)} heads"
        some = f"{self.n_images} image{'s' * (self.n_images != 1)}, {len(self.tokens)} tokens"
        return f"Attention of {self.model} ({self.kind.replace('_', '-')}): {what}, {some}"

    @property
    def caveat(self) -> str:
        """What the rows are, and what attention does not say."""
        return "From the tokens that are read out, mean over images. Where a head looks is not what it is for."

    def frame(self) -> pandas.DataFrame:
        """A row per map, seen from the tokens that are read out, mean over images.

        `strongest`, the key token with the largest mean, and `largest`, that mean; where rows are shares, also
        `on_patches`, the part that goes to patches, and `spread`, exp(entropy): how many tokens share the row.
        """
        import pandas

        return pandas.DataFrame([self._summary(name) for name in self])

    def _summary(self, name: str) -> dict[str, Any]:
        row = self.readout(name).mean(0, dtype=np.float64)
        best = int(row.argmax())
        told = {"head": name, "strongest": self.tokens[best], "largest": float(row[best])}
        if self.kind in ("score", "value_weighted"):
            return told
        entropy = -float(np.sum(row * np.log(np.where(row > 0, row, 1.0))))
        return {**told, "on_patches": float(row[self.n_prefix :].sum()), "spread": float(np.exp(entropy))}

    def table(self) -> Table:
        """The rows of `frame` as words."""
        frame = self.frame()
        cells = [
            tuple(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) for row in frame.to_numpy().tolist()
        ]
        return Table(tuple(map(str, frame.columns)), tuple(cells), self.caveat)

    @drawable
    def draw(self, path: str | Path, *, image: int = 0, query: str | None = None, title: str = "") -> Path:  # type: ignore[override]
        """Draws all maps over one image, layers downwards and heads across, to an .svg, .pdf or .png.

        Args:
            path: Where to; without one a `Drawing` is returned, which a notebook shows.
            image: Which image.
            query: The token that looks; by default those that are read out.
            title: Stands above.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
            TaskError: The token is not among the queries.
        """
        panels = self.heights(image, query)
        return found("draw.head_page.draw_grid")(panels, path, image=None, title=title or f"{self.model}, {self.kind}")


def attention_maps(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    layers: int | Iterable[int] | None = None,
    heads: str | Iterable[str] | None = None,
    kind: Kind | str = "pattern",
    queries: Queries | str = "each",
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> AttentionMaps:
    """Attention of heads on images: name -> float32 array (image, query token, key token).

    The numbers are those of the model's own attention computed unfused, whatever it uses itself. Costs a forward pass;
    only the maps that were asked for are kept, four bytes for each weight: 22 MB per image for all heads of ViT-B/16.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        layers: Layers to look at, from 0, or from -1 backwards; all by default.
        heads: Names of heads, such as `a3.h1`, instead of layers.
        kind: `pattern`, `score`, `value_weighted` or `rollout`; see the module's first lines.
        queries: `each` token, or `readout`: one row, the mean over the tokens that are read out.
        memory: Bytes that maps and batches may take together.
        progress: Whether a bar is shown; None where somebody watches.

    Raises:
        TaskError: A layer, head, kind or choice of queries is not known, or the maps need more memory.
        DataError: The images don't fit the model.
        ModelError: `value_weighted` of a head that is both gated and normed together with others.
    """
    cfg, images = vit.cfg, vit.check_images(images)
    if kind not in KINDS or queries not in get_args(Queries):
        near = "" if kind in KINDS else did_you_mean(str(kind), KINDS)
        known = f"kind is one of {', '.join(map(repr, KINDS))}, queries 'each' or 'readout'"
        raise TaskError(f"attention_maps(kind={kind!r}, queries={queries!r}) is not known: {known}.{near}")
    names = _names(cfg, layers, heads, kind)
    size = _result_bytes(cfg, names, len(images), queries)
    if size > memory:
        raise TaskError(
            f"the maps of {len(names)} heads on {len(images)} images take {size:,} bytes, but memory is "
            f'{memory:,}: pass layers=, heads=, queries="readout", fewer images or memory={int(1.3 * size)}.'
        )
    step = pairs_within(vit, memory - size, residuals=12 + 2 * cfg.n_heads, hidden=2, patterns=5)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    with torch.no_grad(), progress_bar("reading attention", len(images), progress, unit="image") as bar:
        for batch in images.split(step):
            _read(vit, batch, names, parts, kind, queries)
            bar.update(len(batch))
    return AttentionMaps(
        kind=kind,
        maps={name: np.concatenate(found) for name, found in parts.items()},
        queries={name: _query_names(cfg, layer, queries) for name, (layer, _) in names.items()},
        tokens=cfg.tokens.token_names()[: cfg.tokens.patches.stop],
        grid=cfg.tokens.grid,
        n_prefix=cfg.tokens.n_prefix,
        frames=cfg.tokens.frames,
        model=cfg.name,
    )


def _read(
    vit: HookedViT,
    images: Tensor,
    names: Mapping[str, tuple[int, int]],
    parts: dict[str, list[NDArray[np.float32]]],
    kind: str,
    queries: str,
) -> None:
    """Appends a batch's maps to those that are there."""
    wanted: dict[int, dict[str, int]] = {}
    for name, (layer, head) in names.items():
        wanted.setdefault(layer, {})[name] = head
    rollout = Rollout(vit)

    def take(layer: int, maps: Tensor) -> None:
        if kind == "rollout":
            maps = rollout.add(layer, maps)[:, None] * (2 if vit.cfg.is_pool(layer) else 1)
        for name, head in wanted.get(layer, {}).items():
            own = _own(vit.cfg, layer, maps[:, head])
            own = own[:, _readers(vit.cfg, layer)].mean(1, keepdim=True) if queries == "readout" else own
            parts[name].append(own.to("cpu", torch.float32, copy=True).numpy())

    layers = range(max(wanted) + 1) if kind == "rollout" else wanted
    read_layers(vit, images, take, layers=layers, kind="pattern" if kind == "rollout" else kind)


def _own(cfg: VitConfig, layer: int, maps: Float[Tensor, "image target source"]) -> Tensor:
    """Without the pool: as a key it is not seen, as a query it stands alone."""
    end = cfg.tokens.patches.stop
    return maps[:, end:, :end] if cfg.is_pool(layer) else maps[:, :end, :end]


def _readers(cfg: VitConfig, layer: int) -> slice:
    """Among a layer's queries, those that are read out."""
    return slice(0, 1) if cfg.is_pool(layer) else cfg.gathering(layer)


def _query_names(cfg: VitConfig, layer: int, queries: str) -> tuple[str, ...]:
    names = cfg.tokens.token_names()
    if cfg.is_pool(layer):
        return names[-1:]
    if queries == "each":
        return names[: cfg.tokens.patches.stop]
    read = names[_readers(cfg, layer)]
    return ("+".join(read) if cfg.tokens.has_cls or cfg.tokens.has_dist else "mean",)


def _names(
    cfg: VitConfig, layers: int | Iterable[int] | None, heads: str | Iterable[str] | None, kind: str
) -> dict[str, tuple[int, int]]:
    """Name of each map that is wanted -> layer and head."""
    if heads is not None and (layers is not None or kind == "rollout"):
        other = "rollout, which averages over heads: pass layers=" if kind == "rollout" else "layers: pass one of them"
        raise TaskError(f"heads={heads!r} do not go with {other}.")
    if heads is not None:
        return head_names(cfg, heads)
    asked_layers = _layers(cfg, layers) or _nothing()
    if kind == "rollout":
        return {f"rollout@{layer}": (layer, 0) for layer in asked_layers}
    return {name: place for name, place in head_names(cfg).items() if place[0] in asked_layers}


def head_names(cfg: VitConfig, heads: str | Iterable[str] | None = None) -> dict[str, tuple[int, int]]:
    """Name of each head, or of those asked for -> layer and head.

    Raises:
        TaskError: There is no such head, or none was asked for.
    """
    every = {f"a{layer}.h{head}": (layer, head) for layer in range(cfg.n_layers) for head in range(cfg.heads_of(layer))}
    if heads is None:
        return every
    asked = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    for name in asked or _nothing():
        if name not in every:
            raise TaskError(
                f"{cfg.name} has no head {name!r}: its heads are {next(iter(every))} to {list(every)[-1]}."
                f"{did_you_mean(str(name), every)}"
            )
    return {name: every[name] for name in asked}


def _layers(cfg: VitConfig, layers: int | Iterable[int] | None) -> Sequence[int]:
    if layers is None:
        return range(cfg.n_layers)
    asked = [layers] if isinstance(layers, int) else list(layers)
    for layer in asked:
        if not isinstance(layer, int) or not -cfg.n_layers <= layer < cfg.n_layers:
            raise TaskError(f"{cfg.name} has no layer {layer!r}: pass 0 to {cfg.n_layers - 1}, or -1 for the last.")
    return sorted({layer % cfg.n_layers for layer in asked})


def _nothing() -> Any:
    raise TaskError("no head was asked for: pass names such as heads=['a0.h1'], layers, or leave both out.")


def _result_bytes(cfg: VitConfig, names: Mapping[str, Any], n_images: int, queries: str) -> int:
    keys = cfg.tokens.patches.stop
    rows = sum(1 if queries == "readout" or cfg.is_pool(layer) else keys for layer, _ in names.values())
    return 4 * n_images * rows * keys

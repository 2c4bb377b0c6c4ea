"""What patching each patch of the image does to a circuit's metric, beside the same for the full model.

Holds numpy arrays only; `algorithms/patching/patch_effects.py` measures it and says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .effect_table import MEASURED, EffectTable, Shown
from .report import Table
from .run_folder import PATCH_FILES
from .shown import drawable

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PatchEffects(EffectTable):
    """Effects of the patches of the image; the places are (row, column), NaN where nothing was measured.

    Everything that an `EffectTable` has is of `subject`; `model` is the same of the full model, on the same pairs.

    Args:
        subject: Whose run was patched, such as "circuit of 40 edges".
        images: The clean images in [0, 1], shape (pair, height, width, channel), 1 or 3 channels.
        keys: What tells each clean image from others (`figure_data.image_keys`).
        model: The full model's.
    """

    subject: str
    images: NDArray[np.float32]
    keys: tuple[str, ...] = ()
    model: PatchEffects | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of what was patched."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def subjects(self) -> list[PatchEffects]:
        """The circuit's, and the full model's where it is there."""
        return [self] if self.model is None else [self, self.model]

    def of_image(self, key: str) -> PatchEffects | None:
        """Only the pairs of one clean image; None where it was not measured."""
        rows = [row for row, own in enumerate(self.keys) if own == key]
        return self.of_pairs(rows) if rows else None

    def of_pairs(self, rows: Sequence[int]) -> PatchEffects:
        """Only some of the pairs, of the full model too."""
        return replace(
            super().of_pairs(rows),
            images=self.images[list(rows)],
            keys=tuple(self.keys[row] for row in rows),
            model=None if self.model is None else self.model.of_pairs(rows),
        )

    def added_up(self) -> tuple[float, float]:
        """The sum of all patches' effects, and what the whole input carries, m(clean) - m(corrupted); over the pairs.

        They are equal where patches neither need nor replace one another.
        """
        return float(np.nansum(self.effect)), float(self._mean(self.clean - self.corrupt))

    @property
    def method(self) -> str:
        """Whose runs, direction, pairs and ablation."""
        return f"patches of the image, {self.subject}, {super().method}"

    @property
    def caveat(self) -> str:
        """What the numbers leave out, and how far their sum is from the whole."""
        sums = ((one.subject, *one.added_up()) for one in self.subjects)
        said = "; ".join(f"{name} {total:.3g} of {whole:.3g}" for name, total, whole in sums)
        return f"each patch alone, not what they do together; their sum, of what the whole input carries: {said}"

    def frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pandas.DataFrame:
        """One row per patch: `row`, `column`, what `measured` gives, and with `model_` the same of the full model.

        Args:
            n_bootstrap: Bootstrap draws of the pairs, or images.
            seed: Draws them.
        """
        import pandas

        row, column = (axis.ravel() for axis in np.indices(self.grid))
        columns: dict[str, Any] = {"row": row, "column": column, **self.measured(n_bootstrap, seed)}
        if self.model is not None:
            of_model = self.model.measured(n_bootstrap, seed)
            columns |= {f"model_{name}": values for name, values in of_model.items()}
        return pandas.DataFrame(columns).dropna(subset=["effect"]).reset_index(drop=True)

    def table(self) -> Table:
        """A row per patch, the largest effects first: of the circuit, of the full model, and the pairs that flip."""
        frame = self.frame().sort_values("effect", key=abs, ascending=False, kind="stable")
        names = [self.subject] if self.model is None else [self.subject, self.model.subject]
        rows = []
        for row in frame.to_dict("records"):
            effect, flips = self._figures(row)
            effects = [effect]
            if self.model is not None:
                effects.append(self._figures({name: row[f"model_{name}"] for name in MEASURED})[0])
            rows.append((f"r{row['row']}c{row['column']}", *effects, flips))
        return Table(("patch", *names, "flips"), tuple(rows), self.method)

    @drawable
    def draw(self, path: str | Path, *, show: Shown | str = "effect", title: str = "", images: int = 4) -> Path:  # type: ignore[override]
        """Draws the effects over the images to an .svg, .pdf or .png, and returns the path.

        A row for the mean over the pairs and one for each of the first pairs; across go the clean image, the circuit
        and the full model. Blue helps and orange hurts; each row has its own scale, the same for both.

        Args:
            path: Where to.
            show: `effect`, `normalised` or `flips`.
            title: Stands above instead of the model and the task.
            images: At most so many pairs.

        Raises:
            TaskError: `show` is not known.
            FormatError: The ending is not known, or the file cannot be written.
        """
        from .draw.image_maps import draw_patch_effects

        return draw_patch_effects(self, path, show=show, title=title or self.context, images=images)

    def write(self, folder: str | Path) -> list[Path]:
        """Writes `PATCH_FILES` into a folder, the numbers and the picture, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        numbers, picture = (Path(folder) / name for name in PATCH_FILES)
        return [self.save(numbers), self.draw(picture)]

    def _draw(self, path: str | Path, show: str, title: str) -> Path:
        return self.draw(path, show=show, title=title)

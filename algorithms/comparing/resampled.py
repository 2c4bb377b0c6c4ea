"""Circuits found again: by the search that their record describes, on bootstrap resamples of the discovery pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.circuit import Circuit
from ...circuits.node_scores import NodeScores
from ...circuits.nodes import granularity
from ...circuits.redraw import at_rows, redrawn_rows
from ...circuits.scores import Scores
from ...circuits.select import smallest_faithful
from ...circuits.task import Task
from ...models.errors import TaskError
from ..progress import progress_bar
from ..registry import ALGORITHMS, run_algorithm


def finder_of(circuit: Circuit, *, memory: int = DEFAULT_MEMORY) -> Callable[[Task], Circuit]:
    """The search that found a circuit, from its record: task -> circuit, by the same algorithm and selection.

    Args:
        circuit: The circuit.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The circuit does not record an algorithm and a selection that can be run again.
    """
    record = circuit.provenance
    name, options = record.get("algorithm"), dict(record.get("options", {}))
    if name not in ALGORITHMS:
        raise TaskError(f"{circuit} was not found by a registered algorithm ({name!r}): it cannot be found again.")
    if ALGORITHMS[name].finds == "scores" and record.get("selection") not in _SELECTIONS:
        raise TaskError(
            f"{circuit} was selected by {record.get('selection')!r}, which its record does not repeat: only "
            f"{', '.join(_SELECTIONS)} are."
        )

    def find(task: Task) -> Circuit:
        found = run_algorithm(name, circuit.graph, task, memory=memory, **options)
        return found if isinstance(found, Circuit) else _select(circuit, found, task, memory)

    return find


_SELECTIONS = ("top", "threshold", "smallest_faithful", "smallest_transmitting")


def _select(like: Circuit, scores: Scores, task: Task, memory: int) -> Circuit:
    record = like.provenance
    by = record["by"]
    if granularity(like) == "node":
        return NodeScores.from_edges(scores).top(record["n"], by=by)
    if record["selection"] == "top":
        return scores.top(record["n"], by=by)
    if record["selection"] == "threshold":
        return scores.threshold(record["tau"], by=by)
    return smallest_faithful(scores, task, level=record["level"], by=by, memory=memory)


def resampled_circuits(
    find: Callable[[Task], Circuit], task: Task, n: int, *, seed: int = 0, progress: bool = False
) -> tuple[Circuit, ...]:
    """Circuits found on `n` bootstrap resamples of the discovery pairs, of a crossed task of its images in each class.

    The draws depend on the seed and the number of pairs only, so models with common pairs get the same resamples.

    Args:
        find: Task -> circuit, such as `lambda task: eap_ig(graph, task).top(40)`.
        task: The task.
        n: How many.
        seed: Draws them.
        progress: Show a bar on stderr.
    """
    rng, pairs, found = np.random.default_rng(seed), task.discovery, []
    with progress_bar("resamples", n, progress, "search") as bar:
        for _ in range(n):
            found.append(find(dataclasses.replace(task, discovery=at_rows(pairs, redrawn_rows(pairs, rng)))))
            bar.update()
    return tuple(found)

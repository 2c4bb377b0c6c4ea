"""Circuits found again: by the search that their record describes, on bootstrap resamples of the discovery pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.circuit import Circuit
from ...circuits.redraw import at_rows, redrawn_rows
from ...circuits.task import Task
from ..discovery import Discovery
from ..progress import progress_bar


def finder_of(circuit: Circuit, *, memory: int = DEFAULT_MEMORY) -> Callable[[Task], Circuit]:
    """The search that found a circuit, from its record: task -> circuit, by the same algorithm and selection.

    Args:
        circuit: The circuit.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The circuit does not record an algorithm and a selection that can be run again.
    """
    discovery = Discovery.again(circuit)
    return lambda task: discovery.find(task, circuit.graph, memory=memory)


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

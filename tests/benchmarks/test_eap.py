"""Edge attribution's time and memory beside the plain model's. No time is asserted."""

import edge_attribution
import memory
import pytest
from edge_attribution import DEIT, VIT_B


def show(benchmark, measure):
    """Prints a row and hands its ratio to pytest-benchmark."""
    row = benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["ratio"] = row.median
    print(f"\n{row}")


@pytest.mark.slow
def test_eap_on_deit_tiny(benchmark):
    show(benchmark, lambda: edge_attribution.eap_time(DEIT, 8, rounds=3))


@pytest.mark.slow
def test_eap_on_vit_b(benchmark):
    show(benchmark, lambda: edge_attribution.eap_time(VIT_B, 4, rounds=3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_pairs"), [(DEIT, 8), (VIT_B, 4)])
def test_eap_ig(benchmark, name, n_pairs):
    show(benchmark, lambda: edge_attribution.eap_ig_time(name, n_pairs, rounds=3))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["eap", "evaluate"])
def test_peak_memory_on_vit_b(benchmark, algorithm):
    show(benchmark, lambda: memory.peak_over_budget(algorithm, VIT_B, 1_000_000_000, "mean"))

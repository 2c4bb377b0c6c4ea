"""The page of a comparison holds what the comparison says, loads nothing, and escapes what came from outside."""

import dataclasses
import re

import numpy as np
import pytest
from vitcircuits.circuits.compare import Subject, compare
from vitcircuits.circuits.draw.comparison_page import comparison_page
from vitcircuits.circuits.draw.curve import rank_overlap_svg


@pytest.fixture
def comparison(circuit):
    again = dataclasses.replace(circuit, mask=circuit.mask & (np.arange(len(circuit.mask)) % 3 > 0))
    kinds = {"<vit>": [Subject(circuit), Subject(again)], "clip": [Subject(again), Subject(circuit)]}
    return compare(kinds, n_random=2)


def test_everything_that_may_be_said_is_there(comparison):
    page = comparison_page(comparison)
    for heading in ("What may be said", "Kinds against each other", "What each two circuits share", "Each circuit in"):
        assert heading in page
    for finding in comparison.findings:
        assert finding.figure in page and finding.verdict in page
    assert f"{comparison['edges'][0, 1]:.2f}" in page and page.count("<svg") == 3


def test_it_loads_nothing_and_escapes_names(comparison):
    page = comparison_page(comparison)
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" in page
    assert "<vit>" not in page and "&lt;vit&gt;" in page and "<script src" not in page
    still = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert still.count("http") == still.count("http://www.w3.org/2000/svg") + still.count("http-equiv")
    assert comparison_page(comparison) == page


def test_one_circuit_of_each_shape_still_makes_a_page(circuit, comparison):
    assert "What each two" not in comparison_page(compare([circuit], n_random=1))
    svg = rank_overlap_svg(comparison.rank_curves, list(comparison.kinds))
    assert "two seeds of clip" in svg and "by chance" in svg

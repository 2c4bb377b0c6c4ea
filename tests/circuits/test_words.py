"""A report in words: what is said first and last, undefined figures with their reason, one-sided tasks as such."""

import numpy as np
import pytest
from vitcircuits.circuits import class_contrast, compile_graph, evaluate
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.figures import grouped
from vitcircuits.circuits.formats.json import load_report, save_report
from vitcircuits.circuits.report import Figure
from vitcircuits.circuits.words import images_shown, points, selection_told, short, told, verdict
from vitcircuits.models import load_vit


@pytest.fixture(scope="module")
def reports():
    """Of half of all edges on a crossed task, on aligned partners, and on a one-sided task."""
    vit = load_vit("toy/digits-2l")
    graph = compile_graph(vit)
    circuit = Circuit(graph, np.arange(len(graph)) % 2 == 0)
    asked = {"both": {}, "aligned": {"corruption": "blur"}, "one": {"sides": "one"}}
    quick = {"n_discovery": 3, "n_evaluation": 10}
    return {
        name: evaluate(
            circuit, class_contrast(vit, "digits", target=3, foil=8, **quick, **how), n_random=2, n_bootstrap=50
        )
        for name, how in asked.items()
    }


def test_the_model_s_mistakes_come_first_and_the_one_sided_figure_last(reports):
    rows = told(reports["both"])
    assert [label for label, _ in rows][:3] == ["evaluation images", "transmission", "leakage"]
    assert rows[-1][0] == "one-sided f" and "a constant can reach 1" in rows[-1][1] and "sham" in rows[-1][1]
    counts = reports["both"].method
    wrong = sum(counts[f"n_{side}_images"] - counts[f"n_{side}_images_right"] for side in ("target", "foil"))
    assert rows[0][1].startswith(f"the model gets {wrong} of ")
    assert rows[1][1] == verdict(reports["both"]) and rows[1][1].endswith(reports["both"].method["verdict"])


def test_the_lowest_cell_is_named(reports):
    figures = reports["both"].figures
    (said,) = (words for label, words in told(reports["both"]) if label == "right")
    cell = said.rpartition(", ")[2].replace(" ", "_")
    assert figures[f"right_{cell}"].value == figures["right"].value


def test_what_aligned_partners_show_themselves_is_said(reports):
    said = " ".join(words for _, words in told(reports["aligned"]))
    assert "T0 = " in said and f"{reports['aligned']['transmission_empty'].value:.2f}" in said


def test_a_one_sided_report_never_says_that_the_image_is_read(reports):
    rows = told(reports["one"])
    assert rows[0][1].startswith("one-sided f = ") and "passes every figure" in rows[1][1]
    assert not any("reads" in words or "T = " in words for _, words in rows)
    assert list(grouped(reports["one"])) == [""]


def test_every_figure_stands_in_one_group_and_the_older_ones_come_last(reports):
    groups = grouped(reports["both"])
    assert sum(map(len, groups.values())) == len(reports["both"].figures)
    headings = list(groups)
    assert headings[0].startswith("Reads the image?") and headings[1].startswith("All images")
    assert headings[-1].startswith("The older, one-sided figures")
    assert list(groups[headings[0]])[:2] == ["T, transmission", "L, leakage"]


def test_images_shown_are_the_worst_and_the_closest(reports):
    shown, rows = images_shown(reports["both"]), reports["both"].tables["images"].rows
    numbers = [int(row[0].split()[1]) for row in rows]
    assert shown[:12] == numbers[:12] and shown[-1] == numbers[-1] and len(set(shown)) == min(16, len(numbers))
    assert images_shown(reports["one"]) == []


def test_words_survive_saving(reports, tmp_path):
    for name, report in reports.items():
        again = load_report(save_report(report, tmp_path / f"{name}.json"))
        assert told(again) == told(report) and images_shown(again) == images_shown(report)


def test_a_figure_without_value_or_interval_says_why():
    assert short(Figure(None, "share", reason="T0 is 0.5")) == "undefined (T0 is 0.5)"
    assert short(Figure(0.456, "logits", reason="n_bootstrap is 0")) == "0.46 logits (no interval: n_bootstrap is 0)"
    assert short(Figure(0.456, "logits", 0.4, 0.5)) == "0.46 [0.40, 0.50] logits"


def test_a_level_out_of_reach_is_told_with_the_frontier():
    frontier = [[edges, edges / 100] for edges in range(1, 61)]
    found = {"selection": "smallest_transmitting", "level": 0.8, "reached": False, "transmission": 0.6}
    graph = compile_graph(load_vit("toy/digits-2l"))

    def chosen(**provenance):
        return selection_told(Circuit.full(graph, provenance=provenance))

    said = chosen(**found, frontier=frontier)
    assert (
        said.startswith("no size reads the image at 0.8 on discovery images; the best is 0.60") and "60: 0.60" in said
    )
    assert len(points(frontier).split(",")) == 8
    assert "reads" not in chosen(**{**found, "reached": True}, frontier=frontier[:5])
    assert chosen(selection="top", n=5) == ""

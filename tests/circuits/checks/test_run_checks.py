"""One call and one report hold everything, and nothing in it stands without an interval or a reason."""

import dataclasses
import re

import pytest
from vitcircuits.circuits import CheckSettings, Circuit, compile_graph, evaluate, node_circuit
from vitcircuits.circuits.draw.pages import to_html
from vitcircuits.circuits.formats.json import load_report, report_to_dict, save_report
from vitcircuits.circuits.report import Figure, Report
from vitcircuits.models.errors import TaskError

QUICK = CheckSettings(n_random=3, greedy_steps=2, greedy_candidates=3, n_draws=6, n_permutations=100, most_parts=8)
WITH_INTERVAL = re.compile(r"-?\d+\.\d{3} \[-?\d+\.\d{3}, -?\d+\.\d{3}\]|-?\d+\.\d{3}( \w+)? \(no interval: [^)]+\)")
P_VALUE = re.compile(r"p = [\de.+-]+( against [\de.+-]+)?")


@pytest.fixture(scope="module", params=["edge", "node"])
def report(request, tiny_task, tiny_circuit):
    circuit = tiny_circuit
    if request.param == "node":
        circuit = node_circuit(tiny_circuit.graph, ["a0.h0", "m0", "a1.h1"])
    options = {"curve": False, "n_random": 3, "n_bootstrap": 50, "settings": QUICK}
    return circuit, evaluate(circuit, tiny_task, checks="all", **options)


def every_figure(report):
    yield from report.figures.items()
    yield from ((name, verdict.statistic) for name, verdict in report.verdicts.items())
    for name, table in report.tables.items():
        yield from ((name, cell) for row in table.rows for cell in row if isinstance(cell, Figure))


def test_every_check_leaves_its_mark(report):
    _, found = report
    tests = {"equivalence", "independence", "minimality", "sufficiency", "partial_necessity"}
    assert set(found.verdicts) == tests
    assert set(found.tables) == {"local_minimality", "spread"}
    assert {"complement", "incompleteness_greedy", "can_go", "lowest_faithfulness"} <= set(found.figures)
    for verdict in found.verdicts.values():
        assert verdict.words and verdict.null and (verdict.p_value is None or 0 <= verdict.p_value <= 1)


def test_every_figure_has_an_interval_or_a_reason(report):
    for name, figure in every_figure(report[1]):
        assert (figure.low is not None and figure.high is not None) or figure.reason, name


@pytest.mark.parametrize("ablation", ["partner", "mean"])
def test_on_both_sides_it_is_all_there_too(ablation, planted):
    task, graph, truth = planted("planted/bright-column", "both")
    options = {"curve": False, "n_random": 3, "n_bootstrap": 50, "settings": QUICK, "ablation": ablation}
    found = evaluate(Circuit(graph, truth), task, checks="all", **options)
    assert set(found.tables) == {"controls", "images", "local_minimality", "spread", "spread_distances"}
    assert {"lowest_transmission", "dealt_transmission", "complement"} <= set(found.figures)
    assert {row[0] for row in found.tables["spread"].rows} >= {"partner", "mean (per token)"}
    assert len(found.verdicts) == 5 and not any("one-sided" in verdict.words for verdict in found.verdicts.values())
    for name, figure in every_figure(found):
        assert (figure.low is not None and figure.high is not None) or figure.reason, name


def test_the_printed_report_never_shows_a_bare_figure(report):
    _, found = report
    for line in str(found).splitlines():
        rest = P_VALUE.sub("", WITH_INTERVAL.sub("", line))
        assert not re.search(r"\d\.\d{3}", rest), line


def test_the_page_never_shows_a_bare_figure(report):
    circuit, found = report
    page = to_html(circuit, report=found)
    for name, figure in every_figure(found):
        if figure.value is None:
            continue
        said = f"{figure.low:.3f} to {figure.high:.3f}" if figure.low is not None else "no interval"
        assert said in page or f"[{figure.low:.3f}, {figure.high:.3f}]" in page, name
    for verdict in found.verdicts.values():
        assert f"{verdict.p_value:.3g}" in page or verdict.p_value is None


def test_a_figure_without_an_interval_says_why_in_print_and_on_the_page(tiny_circuit):
    figures = {"one": Figure(0.25, "logits", reason="a single pair"), "two": Figure(0.5)}
    found = Report(figures, (), 5, 10, 1)
    assert str(found["one"]) == "0.250 logits (no interval: a single pair)"
    assert str(found["two"]) == "0.500 (no interval: none was recorded)"
    page = to_html(tiny_circuit, report=found)
    assert "no interval: a single pair" in page and "no interval: none was recorded" in page


def test_the_json_holds_it_all(report, tmp_path):
    _, found = report
    again = load_report(save_report(found, tmp_path / "report.json"))
    assert report_to_dict(again) == report_to_dict(found)
    assert again.verdicts == found.verdicts and again.tables == found.tables and str(again) == str(found)


def test_files_of_reports_without_checks_are_still_read(report, tmp_path):
    from vitcircuits.circuits.formats.json import report_from_dict

    data = report_to_dict(report[1])
    del data["verdicts"], data["tables"]
    assert report_from_dict(data).verdicts == {}


def test_the_report_says_its_granularity_first(report):
    circuit, found = report
    kind = circuit.provenance.get("granularity", "edge")
    assert str(found).startswith(f"{kind} circuit: ") and found.method["granularity"] == kind
    assert f"{kind} circuit: ".capitalize() in to_html(circuit, report=found)
    if kind == "node":
        assert "3 of 6 heads and MLPs kept whole" in found.headline
        assert "as many heads and as many MLPs" in found["random_faithfulness"].method


def test_some_checks_can_be_chosen_and_unknown_ones_are_refused(tiny_task, tiny_circuit):
    options = {"curve": False, "n_random": 0, "n_bootstrap": 10, "settings": QUICK}
    found = evaluate(tiny_circuit, tiny_task, checks=["spread"], **options)
    assert set(found.tables) == {"spread"} and not found.verdicts
    with pytest.raises(TaskError, match="completeness"):
        evaluate(tiny_circuit, tiny_task, checks=["honesty"], **options)


def test_checks_on_outputs_look_at_the_logit_difference_whatever_the_metric(tiny_task):
    circuit = Circuit.full(compile_graph(tiny_task.vit))
    by_kl = dataclasses.replace(tiny_task, metric=dataclasses.replace(tiny_task.metric, kind="kl"))
    options = {"curve": False, "n_random": 0, "n_bootstrap": 10, "settings": CheckSettings(epsilon=0.45)}
    for task in (tiny_task, by_kl):
        verdict = evaluate(circuit, task, checks=["equivalence"], **options).verdicts["equivalence"]
        assert verdict.statistic.value == 0.5 and verdict.passed is True

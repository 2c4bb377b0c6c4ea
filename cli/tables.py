"""What the commands print on stdout: aligned rows of a name and a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_rows(rows: Mapping[str, object]) -> None:
    """Prints names in one column and values in the next."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def dropped_words(dropped: Mapping[str, Mapping[str, int]]) -> str:
    """Which pairs were left out, and why."""
    said = []
    for split, counts in dropped.items():
        if wrong := counts["clean_wrong"]:
            said.append(f"{wrong} {split} (clean image not classified as the target)")
        if same := counts["partner_not_lower"]:
            said.append(f"{same} {split} (partner does not lower the metric)")
    return "; ".join(said) or "none"


def task_rows(task: Any) -> dict[str, object]:
    """A task's rows of a summary."""
    info = task.info
    return {
        "task": f"{info['target_name']} against {info['foil_name']}, {info['metric']}",
        "model": info["model"],
        "data": f"{info['data']}, partners by {info['corruption']}",
        "pairs": f"{len(task.discovery)} to discover, {len(task.evaluation)} held out",
        "pairs dropped": dropped_words(info["dropped"]),
    }


def report_rows(report: Any) -> dict[str, object]:
    """A report's rows of a summary; all figures are on held-out pairs."""
    share = 100 * report.n_edges / report.n_graph
    shown = {
        "faithfulness": "faithfulness",
        "random circuits": "random_faithfulness",
        "accuracy": "accuracy",
        "accuracy retained": "accuracy_retained",
        "KL": "kl",
    }
    figures = {label: report.figures[name] for label, name in shown.items() if name in report.figures}
    return {"circuit": f"{report.n_edges} of {report.n_graph:,} edges ({share:.1f}%)", **figures}

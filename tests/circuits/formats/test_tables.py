"""The table of kept edges, and CSV that reads back equal."""

from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats.tables import edges_table, load_csv, save_csv
from vitcircuits.circuits.graph import Graph as GraphType
from vitcircuits.circuits.tokens import TokenGroups
from vitcircuits.models.errors import FormatError


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_law_9_the_table_reads_back_equal(
    data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path
):
    circuit = draw_circuit(data)
    table = edges_table(circuit)
    assert_frame_equal(load_csv(save_csv(circuit, scratch / "edges.csv")), table, check_exact=True)
    assert sorted(table["edge"]) == sorted(circuit.edge_names())
    assert list(table["rank"]) == list(range(1, len(circuit) + 1))


@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_pandas_reads_parquet_back_equal(
    data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path
):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, from the extra parquet.")
    circuit = draw_circuit(data)
    path = circuit.save(scratch / "edges.parquet")
    assert_frame_equal(pandas.read_parquet(path), edges_table(circuit), check_exact=True)


def test_without_pyarrow_parquet_is_refused_in_a_sentence(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vitcircuits.circuits.formats.plain.find_spec", lambda name: None)
    with pytest.raises(FormatError, match=r"pip install 'vitcircuits\[parquet\]'"):
        circuit.save(tmp_path / "edges.parquet")
    assert list(tmp_path.iterdir()) == []


def test_rows_say_where_each_edge_is(make_graph: Callable[..., Graph]):
    names = ["input@cls->a0.h1<q>@cls", "a0.h1<k>@patch->a0.h1@cls", "a0.h1@cls->m1@cls", "m1@cls->logits@cls"]
    table = edges_table(Circuit.from_edges(make_graph("role"), ["input@patch->a0.h1<k>@patch", *names]))
    rows = table.set_index("edge")[["source", "destination", "source_group", "port", "kind", "layer", "head"]]
    assert list(rows.loc[names[0]]) == ["input", "a0.h1", "cls", "q", "attention", 0, 1]
    assert list(rows.loc[names[1]]) == ["a0.h1", "a0.h1", "patch", "k", "inside", 0, 1]
    assert list(rows.loc[names[2]]) == ["a0.h1", "m1", "cls", "", "mlp", 1, -1]
    assert list(rows.loc[names[3]]) == ["m1", "logits", "cls", "", "logits", -1, -1]
    assert table["score"].isna().all()
    assert not table["exact"].any()


def test_groups_named_like_missing_values_stay_names(make_graph: Callable[..., Graph], tmp_path: Path):
    whole = make_graph("role")
    names = ("NA", "None", "null")
    graph = GraphType(whole.cfg, TokenGroups("mask", names, whole.groups.of_token), whole.ports)
    table = load_csv(save_csv(Circuit.full(graph), tmp_path / "edges.csv"))
    assert set(table["source_group"]) == set(names)
    assert pandas.read_csv(tmp_path / "edges.csv")["source_group"].isna().any()  # the trap


def test_what_is_no_table_of_edges_is_refused(circuit: Circuit, tmp_path: Path):
    text = save_csv(circuit, tmp_path / "edges.csv").read_text()
    for wrong in ("", "a,b\n1,2\n", text.replace("rank", "place"), text.replace("\n1,", "\nfirst,"), text + '"'):
        (tmp_path / "wrong.csv").write_text(wrong)
        with pytest.raises(FormatError):
            load_csv(tmp_path / "wrong.csv")
    with pytest.raises(FormatError, match="there is no file"):
        load_csv(tmp_path / "missing.csv")

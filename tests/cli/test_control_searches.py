"""`evaluate --control-searches` runs the circuit's own search where there is nothing to find."""

from vitcircuits.algorithms import run_algorithm
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit


def test_the_selectivity_of_a_saved_circuit(tmp_path, capsys):
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)
    path = run_algorithm("eap_ig", compile_graph(vit), task).top(20, by="mean_abs").save(tmp_path / "circuit.json")
    quick = ["--no-curve", "--random", "2", "--pairs", "8", "--eval-pairs", "8"]
    assert main(["evaluate", str(path), *quick, "--control-searches"]) == 0
    said = capsys.readouterr().out
    assert "selectivity" in said
    assert all(f"  {name} " in said for name in ("true", "permuted_labels", "exchanged_heads", "random_weights"))

"""One batch holds the circuits' graphs apart, with every figure of each."""

import numpy as np
from vitcircuits.circuits.compare import circuit_batch, describe
from vitcircuits.circuits.compare.subject import Subject


def test_a_batch_takes_apart_into_its_circuits_and_carries_their_statistics(make_graph, make_circuit):
    circuits = {"vit": [make_circuit(make_graph(2, 2), s) for s in (0, 1)], "clip": make_circuit(make_graph(4, 3))}
    batch = circuit_batch(circuits)
    every = [*circuits["vit"], circuits["clip"]]
    assert batch.num_graphs == 3 and batch.num_edges == sum(map(len, every))
    assert batch.kind.tolist() == [0, 0, 1] and batch.kind_names == ["vit", "clip"]
    assert batch.circuit_name == ["vit 1", "vit 2", "clip"]
    for place, circuit in enumerate(every):
        flat = describe(circuit).flat()
        wanted = [flat[name] for name in batch.figure_names]
        np.testing.assert_allclose(batch.statistics[place].numpy(), wanted)
        assert batch[place].edge_names == circuit.to_pyg().edge_names
        assert (batch.batch == place).sum() == circuit.to_networkx().number_of_nodes()


def test_figures_can_be_chosen_and_unknown_ones_are_nan(make_graph, make_circuit):
    batch = circuit_batch([Subject(make_circuit(make_graph()), "x")], figures=["edges", "CPR"])
    assert batch.statistics.isnan().tolist() == [[False, True]]

"""The circuit that tells a 3 from an 8 in a toy ViT, step by step. Runs offline, in under a minute on a CPU."""

import argparse
import tempfile
from pathlib import Path

from vitcircuits.algorithms import eap_ig, exact_effects
from vitcircuits.circuits import Circuit, class_contrast, compile_graph, evaluate, run_circuit
from vitcircuits.circuits.select import smallest_faithful
from vitcircuits.models import load_vit


def main(out: Path) -> None:
    # The original's weights are used by reference; the printed parity says how close the opened forward pass is.
    vit = load_vit("toy/digits-2l")
    print(vit)

    # Activations have TransformerLens' names, so notebooks written for it read the same here.
    task = class_contrast(vit, "digits", target=3, foil=8)
    print(task)
    _, cache = vit.run_with_cache(task.discovery.clean[:4], names_filter="blocks.0.attn.hook_pattern")
    print("attention of block 0 [image, head, to, from]:", tuple(cache["blocks.0.attn.hook_pattern"].shape))

    # Every place where one component reads what another wrote is an edge. One token group gives EAP's graph.
    graph = compile_graph(vit, tokens="all", ports="qkv")
    print(graph, "such as", graph.edge_names()[0])

    # A score says how much of the logit difference an edge carries: positive helps the 3, negative hurts it.
    scores = eap_ig(graph, task)
    for index in scores.ranking()[:5]:
        print(f"  {scores.values[index]:+.3f} +- {scores.std_err[index]:.3f}  {graph.edge(int(index)).name}")

    # Attribution is an estimate. On a small graph each edge can also be ablated alone, to see how good it is.
    exact = exact_effects(graph, task)
    best = set(exact.ranking()[:20].tolist())
    print(f"of the 20 edges that matter most alone, {len(best & set(scores.ranking()[:20].tolist()))} were predicted")

    # The size is chosen on discovery pairs and judged on images that discovery never saw.
    circuit = smallest_faithful(scores, task, level=0.8)
    report = evaluate(circuit, task)
    print(circuit, report, sep="\n")

    # A circuit runs: kept edges carry this image's values, all others those of the corrupted partner.
    logits = run_circuit(vit, circuit, task.evaluation.clean[:4], task.evaluation.corrupt[:4])
    print("logit 3 - logit 8 under the circuit:", [round(float(row[3] - row[8]), 2) for row in logits])

    # What is saved loads back equal; the other formats are for other tools.
    out.mkdir(parents=True, exist_ok=True)
    assert Circuit.load(circuit.save(out / "3v8.json")) == circuit
    circuit.draw(out / "3v8.svg")
    print(f"networkx: {circuit.to_networkx()}; torch-geometric: {circuit.to_pyg()}")
    print(f"open {out / '3v8.svg'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write (default: a temporary one)")
    main(parser.parse_args().out or Path(tempfile.mkdtemp()))

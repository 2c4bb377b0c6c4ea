"""From a trained ViT to the circuit that tells a 3 from an 8, step by step.

usage: python examples/digit_circuit.py [--out FOLDER] [--target 3] [--foil 8]
"""

import argparse
from pathlib import Path

from vitcircuits.algorithms import eap_ig, exact_effects, logit_attribution
from vitcircuits.circuits import Ablation, Circuit, class_contrast, compile_graph, evaluate, run_circuit
from vitcircuits.circuits.figure_data import gather
from vitcircuits.circuits.select import smallest_faithful
from vitcircuits.models import load_vit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("digit-circuit"))
parser.add_argument("--target", default="3")
parser.add_argument("--foil", default="8")
args = parser.parse_args()

# 1. The model. It is timm's own module, opened up; the parity says how far its logits are from the original's.
vit = load_vit("toy/digits-2l")
print(vit)

# 2. The task. Clean images of target and foil, each met by partners of both, and the logit difference of the two.
#    Discovery takes images that the model gets right; discovery and evaluation share no image, and no near-duplicate.
task = class_contrast(vit, "digits", target=args.target, foil=args.foil)
print(task)

# 3. The graph. Every place where a head's q, k or v, an MLP or the logits read what something earlier wrote.
graph = compile_graph(vit)
print(graph, "such as", graph.edge_names()[60])

# 4. Looking before measuring: what CLS attends to in layer 1, and what each source adds to the logits by itself.
_, cache = vit.run_with_cache(task.discovery.clean[:1], names_filter="blocks.1.attn.hook_pattern")
print("CLS attends most to patch", (int(cache["pattern", 1][0, :, 0, 1:].mean(0).argmax())))
direct = logit_attribution(vit, task.discovery.clean, task.metric)
strongest = abs(direct.values.sum(2).mean(0)).argmax()
print("strongest direct contribution:", direct.source_names[strongest])

# 5. Scores: how much of the logit difference each edge carries. Gradients estimate; ablating each edge measures.
scores = eap_ig(graph, task)
exact = exact_effects(graph, task)
best = exact.ranking()[:3]
print(
    "edges with the largest exact effect:", [(graph.edge(int(i)).name, round(float(exact.values[i]), 2)) for i in best]
)

# 6. The circuit: the smallest one that reads the image: it transmits .8 of the difference that the clean image's class
#    makes to the model, on the discovery pairs.
circuit = smallest_faithful(scores, task, level=0.8)
print(circuit)

# 7. The judgement, on pairs that were not used so far: what it transmits, what leaks in from partners, whether it is
#    right in every cell; then what random circuits and a constant get.
report = evaluate(circuit, task)
print(report)

# 8. The same circuit when removed edges carry a mean instead of the partner's value: a different question.
print("under mean ablation:", evaluate(circuit, task.with_ablation(Ablation("mean")), curve=False)["transmission"])

# 9. A circuit by hand. Edges on no path from input to logits are dropped.
by_hand = Circuit.from_edges(graph, ["input->m0", "m0->a1.h0<v>", "a1.h0->logits", "a0.h1->m1"])
logits = run_circuit(vit, by_hand, task.evaluation.clean, task.evaluation.corrupt)
shown = task.evaluation.sign.to(logits)  # 1 where the clean image shows the target, -1 the foil
print(len(by_hand), "edges by hand; logits for what is shown", round(float((shown * task.metric(logits)).mean()), 2))

# 10. Keeping and looking.
circuit.save(args.out / "circuit.json")
circuit.save(args.out / "circuit.graphml")
print("open", circuit.draw(args.out / "circuit.svg", exhibit=gather(task)))
assert Circuit.load(args.out / "circuit.json") == circuit

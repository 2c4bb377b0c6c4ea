"""Every digit against every other one: how large the circuits are, and how much they overlap.

usage: python examples/mnist_circuit.py --data-dir FOLDER [--pairs 64] [--quick]

The folder holds MNIST's four idx files. Without it, the same is done with toy/digits-2l on scikit-learn's digits.
"""

import argparse
import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
from vitcircuits.algorithms import Discovery
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import load_vit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", type=Path, default=None, help="where MNIST's four idx files lie")
parser.add_argument("--pairs", type=int, default=48, help="discovery images of each digit")
parser.add_argument("--level", type=float, default=0.8, help="transmission to keep")
parser.add_argument("--quick", action="store_true", help="three digits only")
args = parser.parse_args()

folder = args.data_dir or Path(os.environ.get("VITCIRCUITS_DATA", "~/.cache/vitcircuits")).expanduser() / "mnist"
if args.data_dir is not None or any(folder.rglob("train-images*")):
    vit, data = load_vit("toy/mnist-2l"), str(folder)
else:
    vit, data = load_vit("toy/digits-2l"), "digits"
    print(f"MNIST is not at {folder} (--data-dir names its folder): using scikit-learn's digits and toy/digits-2l.")
print(vit)

# One circuit per ordered pair of digits: target (rows) against foil (columns).
graph, discovery = compile_graph(vit), Discovery("eap_ig", level=args.level)
digits = (3, 5, 8) if args.quick else range(10)
masks = {}
sizes = pd.DataFrame(index=list(digits), columns=list(digits), dtype=object).fillna("")
for target, foil in itertools.permutations(digits, 2):
    task = class_contrast(vit, data, target=target, foil=foil, n_discovery=args.pairs, n_evaluation=args.pairs)
    circuit = discovery.find(task, graph)
    masks[target, foil] = circuit.mask
    sizes.loc[target, foil] = len(circuit)
print(f"\nedges of {len(graph)} that transmit {args.level} of what tells the two apart (rows: target, columns: foil)")
print(sizes.to_string())


def jaccard(one, other):
    """Shared edges over all edges of two circuits."""
    return (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()


# Do circuits overlap because they explain the same target, the same foil, or the same two digits the other way round?
groups = {
    "same target": [(a, b) for a, b in itertools.combinations(masks, 2) if a[0] == b[0]],
    "same foil": [(a, b) for a, b in itertools.combinations(masks, 2) if a[1] == b[1]],
    "the reverse": [(a, b) for a, b in itertools.combinations(masks, 2) if a == b[::-1]],
    "nothing shared": [(a, b) for a, b in itertools.combinations(masks, 2) if not set(a) & set(b)],
}
rows = {
    name: {"pairs of circuits": len(pairs), "mean Jaccard": round(float(np.mean([jaccard(*p) for p in pairs])), 3)}
    for name, pairs in groups.items()
    if pairs
}
print("\noverlap of circuits")
print(pd.DataFrame(rows).T.to_string())

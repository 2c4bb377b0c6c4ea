"""Every digit against every other one: how large the circuits are, and how much of them is shared.

Reads MNIST from --data-dir; without it, the smaller digits of scikit-learn and their own toy ViT take its place.
"""

import argparse
import itertools
from pathlib import Path

from vitcircuits.algorithms import eap_ig
from vitcircuits.circuits import Circuit, class_contrast, compile_graph
from vitcircuits.circuits.select import smallest_faithful
from vitcircuits.models import load_vit


def discover(n_pairs: int, digits: range, data_dir: Path | None) -> dict[tuple[int, int], Circuit]:
    # One graph for all, so that circuits can be compared edge by edge.
    vit = load_vit("toy/mnist-2l" if data_dir else "toy/digits-2l")
    graph = compile_graph(vit)
    found = {}
    for target, foil in itertools.permutations(digits, 2):
        task = class_contrast(
            vit,
            "mnist" if data_dir else "digits",
            target=target,
            foil=foil,
            n_discovery=n_pairs,
            n_evaluation=8,
            data_dir=data_dir,
        )
        found[target, foil] = smallest_faithful(eap_ig(graph, task), task, level=0.8)
    return found


def jaccard(first: Circuit, second: Circuit) -> float:
    # Edges in both over edges in either.
    return (first.mask & second.mask).sum() / max(1, (first.mask | second.mask).sum())


def print_sizes(found: dict[tuple[int, int], Circuit], digits: range) -> None:
    print("\nedges that keep 0.8 of the logit difference (row: target, column: foil; + where no size reaches it)")
    print("    " + "".join(f"{foil:>5}" for foil in digits))
    for target in digits:
        cells = []
        for foil in digits:
            circuit = found.get((target, foil))
            cells.append("" if circuit is None else f"{len(circuit)}{'' if circuit.provenance['reached'] else '+'}")
        print(f"{target:>4}" + "".join(f"{cell:>5}" for cell in cells))


def print_overlaps(found: dict[tuple[int, int], Circuit], digits: range) -> None:
    # Circuits of one target share its own evidence; a pair and its reverse ask the same question with the sign turned.
    print("\nmean overlap (Jaccard) of two circuits")
    same = [jaccard(found[t, a], found[t, b]) for t in digits for a, b in itertools.combinations(set(digits) - {t}, 2)]
    turned = [jaccard(found[a, b], found[b, a]) for a, b in itertools.combinations(digits, 2)]
    print(f"  same target, other foil   {sum(same) / len(same):.2f}")
    print(f"  target and foil swapped   {sum(turned) / len(turned):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's four idx files")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of images per task")
    parser.add_argument("--quick", action="store_true", help="three digits only")
    args = parser.parse_args()
    if args.data_dir is None:
        print("MNIST is not at hand (--data-dir FOLDER): taking scikit-learn's digits and toy/digits-2l instead")
    digits = range(3) if args.quick else range(10)
    found = discover(args.pairs, digits, args.data_dir)
    print_sizes(found, digits)
    print_overlaps(found, digits)


if __name__ == "__main__":
    main()

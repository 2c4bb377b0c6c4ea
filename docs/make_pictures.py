"""The pictures of the README and of the site, drawn by the library: `python docs/make_pictures.py [NAME ...]`.

Written into docs/pictures. The one on MNIST needs its images in the folder `mnist` of VITCIRCUITS_TEST_DATA; without
them it stays as it is.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import vitcircuits as vc
from vitcircuits.algorithms import eap_ig, learned_masks, token_flow
from vitcircuits.circuits import Circuit, Task, gather, planted_task

FOLDER = Path(__file__).parent / "pictures"


def digits() -> tuple[Circuit, Task]:
    """25 edges of a small ViT, by EAP-IG."""
    vit = vc.load_vit("toy/digits-2l")
    task = vc.class_contrast(vit, "digits", target=3, foil=8)
    return eap_ig(vc.compile_graph(vit), task).top(25), task


def digits_3v8(path: Path) -> None:
    """The circuit that tells a 3 from an 8, with a clean image and its partner."""
    circuit, task = digits()
    circuit.draw(path, exhibit=gather(task))


def planted_xor(path: Path) -> None:
    """What a ViT does whose weights were set by hand."""
    vit = vc.load_vit("planted/neighbour-xor")
    task = planted_task(vit)
    graph = vc.compile_graph(vit)
    Circuit.from_edges(graph, vit.truth(), task=task.info).draw(path)


def mnist_3v8(path: Path) -> None:
    """30 edges of a ViT on MNIST, by learned masks, CLS and patches in lanes of their own."""
    vit = vc.load_vit("toy/mnist-2l")
    task = vc.class_contrast(vit, f"{os.environ['VITCIRCUITS_TEST_DATA']}/mnist", target=3, foil=8)
    learned_masks(vc.compile_graph(vit, tokens="role"), task, size=30).draw(path)


def graph(path: Path) -> None:
    """Every edge of a small ViT."""
    Circuit.full(vc.compile_graph(vc.load_vit("toy/digits-2l"))).draw(path)


def edges(path: Path) -> None:
    """One path through a head's values, another through a later head's queries."""
    names = ["input->a0.h1<v>", "a0.h1->a1.h2<q>", "input->a1.h2<v>", "a1.h2->logits", "a0.h1->m1", "m1->logits"]
    Circuit.from_edges(vc.compile_graph(vc.load_vit("toy/digits-2l")), names).draw(path)


def transmission(path: Path) -> None:
    """What circuits of every size transmit, and random ones of the same size."""
    circuit, task = digits()
    vc.evaluate(circuit, task).draw(path)


def flow(path: Path) -> None:
    """What heads carry between CLS and patches, layer by layer."""
    vit = vc.load_vit("toy/digits-2l")
    token_flow(vc.class_contrast(vit, "digits", target=3, foil=8)).draw(path)


PICTURES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (digits_3v8, planted_xor, mnist_3v8, graph, edges, transmission, flow)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        path = FOLDER / f"{name.replace('_', '-')}.svg"
        if name == "mnist_3v8" and "VITCIRCUITS_TEST_DATA" not in os.environ:
            print(f"{path}: left as it is; set VITCIRCUITS_TEST_DATA to a folder that holds mnist/ to draw it.")
            continue
        path.parent.mkdir(exist_ok=True)
        PICTURES[name](path)
        print(f"{path}: {path.stat().st_size:,} bytes")

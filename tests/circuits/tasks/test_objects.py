"""Tasks that say where objects are: in the clean image and in its partner, by the patches with any of its pixels."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap
from vitcircuits.circuits import Ablation, Partner, class_contrast, compile_graph
from vitcircuits.circuits.formats.json import graph_from_dict, graph_to_dict
from vitcircuits.circuits.tasks.redraw import half, halved_rows
from vitcircuits.circuits.token_parts import parts_of
from vitcircuits.models import load_vit
from vitcircuits.models.errors import DataError, TaskError

DIGITS = {"target": 3, "foil": 8, "n_discovery": 8, "n_evaluation": 6}


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


def inked(vit, images):
    """Patches with a pixel that differs from the corner by half of the most, (image, token), by loops."""
    (height, width), columns = vit.cfg.patch_size, vit.cfg.tokens.grid[1]
    found = torch.zeros(len(images), vit.cfg.tokens.n_tokens, dtype=torch.bool)
    for row, image in enumerate(images):
        moved = (image - image[:, :1, :1]).abs().amax(0)
        for y, x in torch.nonzero(moved >= moved.max() / 2).tolist():
            found[row, vit.cfg.tokens.patches.start + (y // height) * columns + x // width] = True
    return found


@pytest.mark.parametrize(("sides", "corruption"), [("both", "class_swap"), ("one", "class_swap"), ("one", "blur")])
def test_objects_are_those_of_clean_image_and_partner(vit, sides, corruption):
    task = class_contrast(vit, "digits", **DIGITS, sides=sides, corruption=corruption, masks="foreground")
    for pairs in (task.discovery, task.evaluation):
        partner = pairs.corrupt if corruption == "class_swap" else pairs.clean  # a blurred image shows its own object
        wanted = torch.stack([inked(vit, pairs.clean), inked(vit, partner)], 1)
        assert torch.equal(pairs.objects, wanted) and wanted.any() and not wanted.all()
        assert torch.equal(pairs.select([2, 0]).objects, wanted[[2, 0]])
    assert task.info["mask"] == "foreground" and len(task.info["mask_digest"]) == 64


def test_objects_go_with_the_images_that_are_drawn_again(vit):
    task = class_contrast(vit, "digits", **DIGITS, masks="foreground")
    one = half(task.discovery, halved_rows(task.discovery, np.random.default_rng(0))[0])
    assert torch.equal(one.objects, torch.stack([inked(vit, one.clean), inked(vit, one.corrupt)], 1))
    met = task.discovery.met(np.array([0, 3]), np.array([5, 1]))
    assert torch.equal(met.objects, torch.stack([inked(vit, met.clean), inked(vit, met.corrupt)], 1))
    assert met.corrupt.equal(task.discovery.corrupt[[5, 1]]) and met.ids.tolist() == [5, 1]


def test_where_no_partner_is_taken_objects_are_the_clean_images_own(vit):
    task = class_contrast(vit, "digits", **DIGITS, masks="foreground", ablation="mean")
    own = inked(vit, task.searched.clean)
    assert torch.equal(task.searched.objects, torch.stack([own, own], 1))
    assert task.discovery.under(Ablation("partner")) is task.discovery


def test_nothing_of_a_sprite_is_background():
    sprites = load_vit("toy/sprites-4l")
    options = {"target": "heart", "foil": "star", "n_discovery": 4, "n_evaluation": 2}
    task = class_contrast(sprites, "sprites", **options, masks="foreground")
    graph = compile_graph(sprites, tokens="mask")
    size, names = eap(graph, task).mean_abs, list(graph.edge_names())
    shares = {
        group: sum(size[row] for row, name in enumerate(names) if name.startswith(f"input@{group}"))
        for group in ("object", "background")
    }
    assert 0 < shares["background"] < 0.05 * shares["object"]  # edges of shapes are softened over a pixel


def test_partners_with_masks_bring_the_objects(vit):
    filled = Partner("object_fill", mask="foreground")
    task = class_contrast(vit, "digits", **DIGITS, corruption=filled)
    assert torch.equal(task.discovery.objects[:, 0], inked(vit, task.discovery.clean))
    with pytest.raises(TaskError, match="once"):
        class_contrast(vit, "digits", **DIGITS, corruption=filled, masks="attention")
    with pytest.raises(DataError, match="no masks"):
        class_contrast(vit, "digits", **DIGITS, masks="nowhere")


def test_pairs_without_objects_and_objects_without_pairs_are_refused(vit, unchecked):
    task = class_contrast(vit, "digits", **DIGITS)
    with pytest.raises(TaskError, match="masks="):
        eap(compile_graph(vit, tokens="mask"), task)
    with pytest.raises(TaskError, match="objects have 1 rows"):
        dataclasses.replace(task.discovery, objects=torch.zeros(1, 2, 17, dtype=torch.bool))


def test_one_part_where_groups_are_the_same_and_one_for_each_partition_where_not(vit):
    task = class_contrast(vit, "digits", **DIGITS, masks="foreground")
    (whole,) = parts_of(compile_graph(vit, tokens="role"), task.discovery)
    assert whole.pairs is task.discovery
    graph = compile_graph(vit, tokens="mask")
    assert graph_from_dict(graph_to_dict(graph)) == graph
    parts, (loose,) = parts_of(graph, task.discovery), parts_of(graph, task.discovery, alike=False)
    assert len(parts) > 2 and loose.graph is graph
    assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(len(task.discovery)))
    for part in parts:
        names = [graph.edge(int(edge)).name for edge in np.arange(len(graph))[part.edges]]
        assert names == list(part.graph.edge_names())
        own = part.own(np.arange(0, len(graph), 3))
        assert np.isin(np.arange(len(graph))[part.edges][own], np.arange(0, len(graph), 3)).all()

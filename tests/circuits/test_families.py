"""From scores to a run folder on every unusual architecture, and pictures of nothing but what its graph has."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap_ig, patch_effects
from vitcircuits.circuits import Circuit, NodeScores, Pairs, Task, compile_graph, evaluate
from vitcircuits.circuits.draw import draw_circuit
from vitcircuits.circuits.draw.panels import place
from vitcircuits.circuits.figure_data import Exhibit, gather
from vitcircuits.circuits.partners.attention_masks import patch_attention
from vitcircuits.circuits.partners.partner import changed_tokens
from vitcircuits.circuits.run_folder import PATCH_FILES, RESULT_FILES, RunFolder
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.words import group_title
from vitcircuits.models.config import TokenLayout, VitConfig


def make_task(vit, images_for, n=2):
    pairs = [images_for(vit, n, seed=seed) for seed in range(4)]
    info = {"model": vit.cfg.name, "target_name": "0", "foil_name": "2"}
    return Task(vit, Metric("logit_difference", (0,), (2,)), Pairs(*pairs[:2]), Pairs(*pairs[2:]), info=info)


def titles(path):
    """What is said about each box of a picture."""
    groups = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}g")
    nodes = (group for group in groups if len(group) and group.get("class", "").split(" ")[0] in ("node", "port"))
    return {group[0].text for group in nodes}


def test_discovery_leaves_a_whole_run_folder(architecture, images_for, tmp_path):
    task = make_task(architecture, images_for)
    graph = compile_graph(architecture, tokens="role", ports="block")
    circuit = eap_ig(graph, task, steps=1).top(len(graph) * 3 // 4, by="abs_mean")
    whole = architecture.cfg.name == "map"  # a curve takes far more runs than everything else, and patches are patches
    report = evaluate(circuit, task, n_random=2, n_bootstrap=10, curve=whole)
    folder = RunFolder.open(tmp_path, {"model": architecture.cfg.name})
    effects = patch_effects(circuit, task, n=1)
    assert effects.grid == architecture.cfg.tokens.grid and np.isfinite(effects.values).all()
    written = folder.write_all(circuit, report, gather(task, n=1), effects if whole else None)
    assert {path.name for path in written} == set(RESULT_FILES) - (
        set() if whole else {"faithfulness.svg", *PATCH_FILES}
    )
    assert Circuit.load(tmp_path / "circuit.json") == circuit
    said, names = titles(tmp_path / "circuit.svg"), names_of(graph)
    assert said and {name for name in said if ".h" not in name} <= names and len(circuit) > 5


def names_of(graph):
    """Everything that an edge of the graph touches, with its port and without."""
    ends = [end for index in range(len(graph)) for end in (graph.edge(index).source, graph.edge(index).destination)]
    return {str(part) for end in ends for part in (end, replace(end, port=""))}


def test_what_is_placed_is_what_the_graph_has(sole_case):
    graph, ports = sole_case.graph, sole_case.graph.ports
    edges, names = [graph.edge(index) for index in range(len(graph))], names_of(graph)
    layout = place(graph, edges)
    placed = {*layout.boxes, *layout.ports, *layout.frames}
    assert names <= placed
    more = [layout.boxes[name].end for name in placed - names]
    assert ports == "block" or not more
    for end in more:  # heads in the frame of what they read together
        assert end.kind == "head" and str(replace(end, kind="attention", head=-1)) in names
    assert all(box.state != "unused" for name, box in layout.boxes.items() if name in names)
    few = place(graph, edges[-1:])
    assert {*few.boxes, *few.ports, *few.frames} <= placed


def test_the_pool_is_the_last_row_and_alone_in_its_lane(architecture_named):
    graph = compile_graph(architecture_named("map-other-heads"), tokens="role")
    layout = place(graph, [graph.edge(index) for index in range(len(graph))])
    assert layout.row_titles == ("layer 0", "layer 1", "pool")
    inside = {name for name in layout.boxes if name.endswith("@pool")}
    assert inside == {"a2.h0@pool", "a2.h1@pool", "a2.h2@pool", "a2.h3@pool", "m2@pool", "logits@pool"}
    assert "a1.h1@patch" in layout.boxes and "a1.h2@patch" not in layout.boxes and "a2.h3<k>@patch" in layout.ports


def test_the_mlp_of_a_parallel_block_stands_beside_its_heads(architecture_named):
    for name, beside in (("parallel", True), ("things", False)):
        graph = compile_graph(architecture_named(name))
        boxes = place(graph, [graph.edge(index) for index in range(len(graph))]).boxes
        assert (boxes["m0"].y == boxes["a0.h0"].y) is beside


@pytest.mark.parametrize("tokens", ["all", "role"])
@pytest.mark.parametrize("suffix", ["svg", "dot", "html"])
def test_every_format_draws_every_choice_of_a_pooled_graph(architecture_named, tokens, ports, suffix, tmp_path):
    graph = compile_graph(architecture_named("map-prefix"), tokens=tokens, ports=ports)
    circuit = Circuit(graph, np.ones(len(graph), dtype=bool))
    text = draw_circuit(circuit, tmp_path / f"picture.{suffix}").read_text()
    assert "a2.h1" in text and "m2" in text


def test_frames_of_a_video_have_a_lane_each():
    layout = TokenLayout(True, 0, (2, 2), frames=3)
    cfg = VitConfig("video", 2, 2, 8, 4, 16, 10, (8, 8), (4, 4), 1, layout, (0,), "token")
    graph = compile_graph(cfg, tokens="frame")
    assert tuple(place(graph, map(graph.edge, range(len(graph)))).lanes) == ("cls", "frame0", "frame1", "frame2")
    assert [group_title(name) for name in ("dist", "frame12", "pool")] == ["distillation", "frame 12", "pool"]
    assert group_title("cell0_12") == "cell row 0, column 12"


def test_node_circuits_hold_existing_nodes_and_run(architecture, images_for):
    task = make_task(architecture, images_for)
    scores = NodeScores.from_edges(eap_ig(compile_graph(architecture), task, steps=1))
    cfg = architecture.cfg
    heads = sum(cfg.heads_of(layer) for layer in range(cfg.n_layers))
    assert len(scores) == heads + sum(cfg.has_mlp(layer) for layer in range(cfg.n_layers))
    everything = evaluate(scores.top(len(scores)), task, n_random=0, n_bootstrap=0, curve=False)
    assert everything["faithfulness"].value == pytest.approx(1)


def test_attention_is_gathered_where_the_readout_looks(architecture, images_for):
    vit, task = architecture, make_task(architecture, images_for)
    found = gather(task).attention
    _, cache = vit.run_with_cache(task.evaluation.clean)
    layout = vit.cfg.tokens
    for layer in range(vit.cfg.n_layers):
        rows = {True: [0, 1][: 1 + layout.has_dist], False: range(layout.n_tokens - layout.has_pool)}[layout.has_cls]
        if vit.cfg.pools and layer == vit.cfg.n_layers - 1:
            rows = [layout.n_tokens - 1]
        own = vit.cfg.heads_of(layer)
        wanted = cache["pattern", layer][:, :own, list(rows)].mean(2).detach()
        np.testing.assert_allclose(found[:, layer, :own], wanted, atol=1e-6)
        assert (found[:, layer, own:] == 0).all()


def test_attention_on_patches_leaves_out_the_pool_and_adds_up_frames():
    pattern = np.arange(11, dtype=np.float32).reshape(1, 1, 1, 11)  # CLS, two frames of 2 x 2 patches, two more
    nothing = np.zeros((1, 2, 2, 1), np.float32), np.zeros((1, 3), np.float32)
    exhibit = Exhibit(nothing[0], nothing[0], nothing[1], nothing[1], ("a", "b", "c"), (2, 2), 1, pattern, frames=2)
    assert exhibit.on_patches(0, 0, 0).tolist() == [[1 + 5, 2 + 6], [3 + 7, 4 + 8]]


@pytest.mark.parametrize("name", ["map", "map-prefix", "map-other-heads"])
def test_rollout_through_a_pool_is_what_it_gathers_of_mixed_tokens(architecture_named, images_for, close, name):
    vit, cfg = architecture_named(name), architecture_named(name).cfg
    images, n = images_for(vit, 2), cfg.tokens.n_tokens - 1
    _, cache = vit.run_with_cache(images)
    mixed = torch.eye(n, dtype=torch.float64)
    for layer in range(cfg.n_layers - 1):
        mean = cache["pattern", layer][:, : cfg.heads_of(layer), :n, :n].detach().mean(1)
        mixed = (mean + torch.eye(n, dtype=torch.float64)) / 2 @ mixed
    last = cache["pattern", cfg.n_layers - 1][:, :, n:, :n].detach().mean(1)
    patches = cfg.tokens.patches
    close(patch_attention(vit, images, "last").flatten(1), last[:, 0, patches])
    close(patch_attention(vit, images).flatten(1) * 2, (last @ mixed)[:, 0, patches])


def test_a_distilled_models_masks_look_from_both_tokens(architecture_named, images_for, close):
    vit = architecture_named("distilled")
    images = images_for(vit, 2)
    _, cache = vit.run_with_cache(images, "blocks.1.attn.hook_pattern")
    wanted = cache["pattern", 1].detach()[:, :, :2, 2:].mean((1, 2))
    close(patch_attention(vit, images, "last").flatten(1), wanted)


def test_tokens_without_pixels_never_count_as_changed(architecture, images_for):
    clean = images_for(architecture, 2)
    corrupt = clean.clone()
    corrupt[:, :, :4, 4:] += 1
    found = changed_tokens(architecture.cfg, clean, corrupt)
    names = architecture.cfg.tokens.token_names()
    assert found.shape == (2, len(names))
    assert {name for name, changed in zip(names, found[0].tolist(), strict=True) if changed} == {"r0c1"}

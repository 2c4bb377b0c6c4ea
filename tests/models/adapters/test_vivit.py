"""transformers' ViViT: clips as images, tubelets as tokens, groups by frame."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap_ig
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.figure_data import gather
from vitcircuits.circuits.metrics import Metric
from vitcircuits.models import clips_to_images, images_to_clips
from vitcircuits.models.errors import DataError
from vitcircuits.models.hooked import HookedViT

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_transformers_own(foreign_module, attention):
    module = foreign_module("vivit", dtype=torch.float32, attn_implementation=attention)
    vit = HookedViT(module)
    clips = torch.randn(3, 4, 3, 16, 16)
    with torch.no_grad():
        wanted = module(clips).logits
        torch.testing.assert_close(vit(clips_to_images(clips)), wanted, atol=1e-4, rtol=0)
    assert float(wanted.std()) > 0.1
    assert vit.cfg.n_channels == 12 and vit.cfg.clip_frames == 4 and vit.cfg.image_size == (16, 16)


def test_without_a_classifier_it_gives_the_class_token(foreign_module, close):
    module = foreign_module("vivit-features")
    vit, clips = HookedViT(module), torch.randn(2, 4, 1, 16, 16, dtype=torch.float64)
    close(vit(clips_to_images(clips)), module(clips).last_hidden_state[:, 0].detach())


def test_tokens_are_tubelets_named_by_frame_row_and_column(foreign_named, images_for):
    vit = foreign_named("vivit")
    names = vit.cfg.tokens.token_names()
    assert names == ("cls", *(f"f{f}r{r}c{c}" for f in range(2) for r in range(2) for c in range(2)))
    images = images_for(vit, 1)
    with torch.no_grad(), vit.borrowed():
        before = vit.embed(images)
        clip = images_to_clips(images, 4).clone()
        clip[0, 3, 1, 2, 9] += 1  # the second tubelet's last frame, first row, second column
        moved = (vit.embed(clips_to_images(clip)) != before).any(-1)[0]
    assert [name for name, changed in zip(names, moved.tolist(), strict=True) if changed] == ["f1r0c1"]


def test_groups_by_frame_carry_a_task_to_a_picture(foreign_named, images_for, close, tmp_path):
    vit = foreign_named("vivit")
    graph = compile_graph(vit, tokens="frame")
    assert graph.groups.names == ("cls", "frame0", "frame1")
    pairs = [images_for(vit, 2, seed=seed) for seed in range(4)]
    task = Task(vit, Metric("logit_difference", (0,), (2,)), Pairs(*pairs[:2]), Pairs(*pairs[2:]))
    full = np.ones(len(graph), dtype=bool)
    close(run_circuit(vit, Circuit(graph, full), *pairs[:2]), vit(pairs[0]))
    close(run_circuit(vit, Circuit(graph, ~full), *pairs[:2]), vit(pairs[1]))
    circuit = eap_ig(graph, task, steps=3).top(len(graph) // 2, by="abs_mean")
    assert any("frame1" in name for name in circuit.edge_names())
    exhibit = gather(task, n=1)
    assert exhibit.clean.shape == (1, 16, 16, 3)
    for name in ("circuit.html", "circuit.svg"):
        circuit.draw(tmp_path / name, exhibit=exhibit)
    assert Circuit.load(circuit.save(tmp_path / "circuit.json")).graph.cfg == vit.cfg


def test_clips_and_images_are_one_another(unchecked):
    clips = torch.randn(2, 4, 3, 8, 8)
    images = clips_to_images(clips)
    assert images.shape == (2, 12, 8, 8) and torch.equal(images_to_clips(images, 4), clips)
    assert torch.equal(images[:, :3], clips[:, 0])
    with pytest.raises(DataError, match=r"pass clip\[None\]"):
        clips_to_images(clips[0])
    with pytest.raises(DataError, match="5 frames x channels"):
        images_to_clips(images, 5)


def test_a_clip_that_is_no_image_is_refused_with_the_repaired_call(foreign_named, unchecked):
    with pytest.raises(DataError, match=r"clips_to_images\(clips\)"):
        foreign_named("vivit")(torch.randn(2, 4, 3, 16, 16))

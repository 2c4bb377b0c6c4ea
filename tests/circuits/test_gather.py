"""What is gathered is what the model saw and said, as plain arrays."""

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Pairs, Task, class_contrast
from vitcircuits.circuits.gather import gather
from vitcircuits.circuits.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError


def test_digits_come_back_as_pixels_with_attention():
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=4, n_evaluation=6)
    found = gather(task, n=2)
    assert found.clean.shape == found.corrupt.shape == (2, 8, 8, 1)
    assert found.clean.dtype == np.float32 and found.clean.min() >= 0 and 0.5 < found.clean.max() <= 1
    assert found.attention.shape == (2, 2, 4, 17) and found.grid == (4, 4) and found.n_prefix == 1
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(found.clean_logits, task.vit(task.evaluation.clean[:2]).numpy(), atol=1e-5)
    assert found.clean_logits.argmax(-1).tolist() == [3, 3] and len(found.class_names) == 10
    assert not np.array_equal(gather(task, n=2, split="discovery").clean, found.clean)
    with pytest.raises(TaskError, match="n=0"):
        gather(task, n=0)


def test_without_cls_attention_is_the_mean_over_targets():
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(
        img_size=8,
        patch_size=4,
        in_chans=1,
        num_classes=3,
        embed_dim=8,
        depth=1,
        num_heads=2,
        class_token=False,
        global_pool="avg",
    )
    vit = load_vit(module)
    images = 3 * torch.randn(4, 2, 1, 8, 8)
    task = Task(vit, Metric("logit", (0,)), Pairs(images[0], images[1]), Pairs(images[2], images[3]))
    found = gather(task)
    _, cache = vit.run_with_cache(images[2], names_filter="blocks.0.attn.hook_pattern")
    np.testing.assert_allclose(found.attention[:, 0], cache["pattern", 0].mean(-2).detach().numpy(), atol=1e-6)
    assert found.n_prefix == 0 and found.clean.min() >= 0 and found.clean.max() <= 1

"""Models whose passes are in 16 bits."""

import copy
import re

import pytest
import torch
from torch import nn
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError
from vitcircuits.models.scrambled import shuffle_weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_multiplies_has_16_bits_and_the_residual_stream_32(dtype):
    vit = load_vit("toy/digits-2l", dtype=dtype)
    images = torch.randn(2, vit.cfg.n_channels, *vit.cfg.image_size)
    logits, cache = vit.run_with_cache(images)
    assert (vit.dtype, vit.sum_dtype) == (getattr(torch, dtype), torch.float32)
    assert logits.dtype == cache["resid_post", 1].dtype == cache["blocks.0.hook_resid_pre"].dtype == torch.float32
    assert cache["z", 0].dtype == cache["mlp_out", 1].dtype == vit.dtype
    wanted = load_vit("toy/digits-2l")(images)
    assert 0 < (logits - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_a_module_is_copied_and_other_weights_are_other_weights():
    whole = load_vit("toy/digits-2l")
    before = copy.deepcopy(whole.module.state_dict())
    short = load_vit(whole.module, dtype="bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in whole.module.state_dict().items())
    assert len({whole.digest(), short.digest(), load_vit(whole.module, dtype="float16").digest()}) == 3
    assert shuffle_weights(short).dtype == torch.bfloat16


def test_a_number_too_large_for_the_dtype_is_said():
    module = copy.deepcopy(load_vit("toy/digits-2l").module)
    with torch.no_grad():
        first = next(part for part in module.blocks[0].mlp.modules() if isinstance(part, nn.Linear))
        first.bias += 1e5
    load_vit(module, dtype="bfloat16")
    with pytest.raises(ModelError, match=re.escape("Pass dtype='float32', or bfloat16, which holds larger numbers")):
        load_vit(module, dtype="float16")
    with pytest.raises(ModelError, match="dtype='half' is not known: pass one of 'float32', 'bfloat16', 'float16'"):
        load_vit("toy/digits-2l", dtype="half")

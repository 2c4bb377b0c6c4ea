"""Law 1: the opened-up forward is the original's; and hooks see and replace what they say, leaving no trace."""

import copy

import pytest
import torch
from vitcircuits.circuits.baseline import source_values
from vitcircuits.models.errors import DataError, ModelError
from vitcircuits.models.hooked import HookedViT
from vitcircuits.models.load import load_vit


def test_law_1_opened_logits_are_the_originals(model, images_for, close):
    images = images_for(model)
    with torch.no_grad(), model.borrowed():
        wanted = model.opened.forward(images)
        close(model(images), wanted)
        close(model.finish(model.embed(images)), wanted)
    assert model.parity.max_difference <= model.parity.tolerance


def test_law_1_sources_and_biases_add_up_to_the_residual_of_the_original(model, images_for, close):
    images, outputs = images_for(model), []
    handle = model.opened.originals[-1].register_forward_hook(lambda _m, _a, out: outputs.append(out.detach()))
    logits = model.opened.forward(images).detach()
    handle.remove()
    with torch.no_grad(), model.borrowed():
        total = source_values(model, images).sum(0) + sum(block.attn_bias for block in model.blocks)
        close(total[:, : outputs[0].shape[1]], outputs[0])  # without the place of a pool
        close(model.readout.logits(total), logits)


def test_what_is_borrowed_twice_is_given_back_once(tiny_vit):
    vit, head = tiny_vit(), torch.nn.Linear(16, 3).double()

    def lent(part):
        return not part.training and not any(parameter.requires_grad for parameter in part.parameters())

    vit.module.train()
    with pytest.raises(ValueError, match="inside"), vit.borrowed():
        with vit.borrowed():
            assert lent(vit.module)
        other = vit.with_readout(head)
        assert lent(vit.module) and not lent(head)
        with other.borrowed():
            assert lent(other.readout.head)
        raise ValueError("inside")
    assert vit.module.training and all(parameter.requires_grad for parameter in vit.module.parameters())
    with vit.borrowed():
        assert lent(vit.module)


def test_idle_hooks_change_nothing(model, images_for, close):
    images, seen = images_for(model), []
    close(model.run_with_hooks(images), model(images))
    logits = model.run_with_hooks(images, [(lambda name: True, lambda x, hook: seen.append(hook.name))])
    close(logits, model(images))
    assert sorted(seen) == sorted(model.hook_names)


def test_each_source_is_what_the_original_writes(variant, images_for, close):
    images = images_for(variant)
    _, cache = variant.run_with_cache(images)
    with torch.no_grad(), variant.borrowed():
        values = source_values(variant, images)
    n_heads = variant.cfg.n_heads
    close(values[0], cache["blocks.0.hook_resid_pre"])
    for layer in range(variant.cfg.n_layers):
        first = 1 + layer * (n_heads + 1)
        close(values[first : first + n_heads], cache["result", layer].permute(2, 0, 1, 3))
        close(values[first + n_heads], cache["mlp_out", layer])


def test_cache_has_every_name_in_transformerlens_shapes(variant, images_for, close):
    cfg, images = variant.cfg, images_for(variant, 2)
    logits, cache = variant.run_with_cache(images)
    close(logits, variant(images))
    assert set(cache) == set(variant.hook_names)
    n, heads = cfg.tokens.n_tokens, (cfg.n_heads, cfg.d_head)
    residual, square = (2, n, cfg.d_model), (2, cfg.n_heads, n, n)
    wanted = {
        **dict.fromkeys(("hook_resid_pre", "hook_resid_mid", "hook_resid_post"), residual),
        **dict.fromkeys(("hook_attn_out", "hook_mlp_out"), residual),
        **dict.fromkeys(("ln1.hook_normalized", "ln2.hook_normalized"), residual),
        **dict.fromkeys(("ln1.hook_scale", "ln2.hook_scale"), (2, n, 1)),
        **dict.fromkeys(("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"), (2, n, *heads)),
        **dict.fromkeys(("attn.hook_attn_scores", "attn.hook_pattern"), square),
        "attn.hook_result": (2, n, cfg.n_heads, cfg.d_model),
        **dict.fromkeys(("mlp.hook_pre", "mlp.hook_post"), (2, n, cfg.d_mlp)),
    }
    for layer in range(cfg.n_layers):
        assert {part: tuple(cache[f"blocks.{layer}.{part}"].shape) for part in wanted} == wanted
    names = {name.split(".", 2)[2] for name in variant.hook_names if name.startswith("blocks.")}
    assert names == set(wanted)
    assert tuple(cache["hook_pos_embed"].shape) == residual


def test_cached_activations_fit_together(model, images_for, close):
    _, cache = model.run_with_cache(images_for(model))
    for layer, block in enumerate(model.blocks):
        pattern = cache["pattern", layer]
        close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        if block.mask is not None:
            assert float(pattern[..., block.mask.value < -1].abs().max()) == 0
        close(cache["result", layer].sum(2) + block.attn_bias, cache["attn_out", layer])
        close(cache["resid_pre", layer] + cache["attn_out", layer], cache["resid_mid", layer])
        if model.cfg.has_mlp(layer):
            close(cache["resid_mid", layer] + cache["mlp_out", layer], cache["resid_post", layer])


def test_a_heads_result_is_its_pattern_over_its_values(variant, images_for, close):
    _, cache = variant.run_with_cache(images_for(variant))
    for layer in range(variant.cfg.n_layers):
        pattern = cache["pattern", layer]
        close(cache["attn_scores", layer].softmax(-1), pattern)
        close(torch.einsum("bhts,bshd->bthd", pattern, cache["v", layer]), cache["z", layer])


def test_names_filter_takes_a_name_several_names_or_a_function(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit)

    def cached(names_filter):
        return set(vit.run_with_cache(images, names_filter)[1])

    assert cached("hook_embed") == {"hook_embed"}
    assert cached(["hook_embed", "blocks.1.attn.hook_z"]) == {"hook_embed", "blocks.1.attn.hook_z"}
    assert cached(lambda name: name.endswith("pattern")) == {f"blocks.{i}.attn.hook_pattern" for i in range(2)}
    assert cached([]) == set()


def test_cache_shorthand_is_the_same_tensor(variant_named, images_for):
    vit = variant_named("plain")
    _, cache = vit.run_with_cache(images_for(vit))
    assert cache["pattern", 1] is cache["blocks.1.attn.hook_pattern"]
    assert cache["post", 0] is cache["blocks.0.mlp.hook_post"]
    with pytest.raises(KeyError):
        cache["pattern", 7]


@pytest.mark.parametrize("method", ["run_with_cache", "run_with_hooks"])
def test_a_wrong_hook_name_is_refused_with_the_nearest(variant_named, images_for, method):
    vit = variant_named("plain")
    wrong = "blocks.0.attn.hook_patern"
    argument = wrong if method == "run_with_cache" else [(wrong, lambda x, hook: x)]
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.hook_pattern"):
        getattr(vit, method)(images_for(vit), argument)


def test_zeroed_z_is_a_model_without_heads(variant, tiny_module, images_for, close):
    without = copy.deepcopy(variant.module)
    with torch.no_grad():
        for block in without.blocks:
            block.attn.proj.weight.zero_()
    images = images_for(variant)
    hooks = [(lambda name: name.endswith("attn.hook_z"), lambda z, hook: torch.zeros_like(z))]
    close(variant.run_with_hooks(images, hooks), without(images).detach())


def test_one_zeroed_head_is_the_same_at_z_and_at_result(variant, images_for, close):
    images = images_for(variant)

    def without_first(x, hook):
        x = x.clone()
        x[:, :, 0] = 0
        return x

    at_z, at_result = (
        variant.run_with_hooks(images, [(f"blocks.0.attn.hook_{part}", without_first)]) for part in ("z", "result")
    )
    close(at_z, at_result)
    assert float((at_z - variant(images)).abs().max()) > 1e-3


@pytest.mark.parametrize("part", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"])
def test_a_patched_residual_gives_the_other_images_logits(variant, images_for, close, part):
    images, others = images_for(variant), images_for(variant, seed=1)
    name = f"blocks.{variant.cfg.n_layers - 1}.{part}"
    _, cache = variant.run_with_cache(others, name)
    close(variant.run_with_hooks(images, [(name, lambda x, hook: cache[hook.name])]), variant(others))


def test_patched_embedding_and_positions_give_the_other_images_logits(variant, images_for, close):
    images, others = images_for(variant), images_for(variant, seed=1)
    _, cache = variant.run_with_cache(others, ["hook_embed", "hook_pos_embed"])
    close(variant.run_with_hooks(images, [("hook_embed", lambda x, hook: cache[hook.name])]), variant(others))
    close(variant.run_with_hooks(images, [("hook_pos_embed", lambda x, hook: cache[hook.name])]), variant(images))


def test_neurons_are_cut_out_at_post(variant, images_for, close):
    without = copy.deepcopy(variant.module)
    with torch.no_grad():
        without.blocks[0].mlp.fc2.weight[:, :5] = 0
    images = images_for(variant)

    def cut(neurons, hook):
        assert hook.layer() == 0
        return torch.cat([torch.zeros_like(neurons[..., :5]), neurons[..., 5:]], -1)

    close(variant.run_with_hooks(images, [("blocks.0.mlp.hook_post", cut)]), without(images).detach())


def test_pre_is_in_front_of_the_activation(variant, images_for, close):
    images = images_for(variant)
    _, cache = variant.run_with_cache(images)
    close(torch.nn.functional.gelu(cache["pre", 0]), cache["post", 0])


def test_a_doubled_scale_halves_what_the_norm_gives(variant_named, images_for, close):
    vit = variant_named("qknorm-rms")  # no bias in an RMSNorm
    images = images_for(vit)
    name = "blocks.0.ln2.hook_scale"
    halved = vit.run_with_hooks(images, [("blocks.0.ln2.hook_normalized", lambda x, hook: x / 2)])
    close(vit.run_with_hooks(images, [(name, lambda scale, hook: 2 * scale)]), halved)
    assert float((halved - vit(images)).abs().max()) > 1e-3


def test_scale_and_normalized_belong_to_the_norm_that_scales(variant, images_for, close):
    _, cache = variant.run_with_cache(images_for(variant))
    block = variant.blocks[0]
    x = cache["resid_pre", 0]
    if block.norm1.centres:
        x = x - x.mean(-1, keepdim=True)
    close(cache["blocks.0.ln1.hook_scale"], (x.square().mean(-1, keepdim=True) + block.norm1.module.eps).sqrt())
    close(cache["blocks.0.ln1.hook_normalized"], block.norm1.module(cache["resid_pre", 0]).detach())


def _state(module):
    return {
        "training": [m.training for m in module.modules()],
        "learning": [p.requires_grad for p in module.parameters()],
        "fused": [m.fused_attn for m in module.modules() if hasattr(m, "fused_attn")],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
        "grads": [p.grad for p in module.parameters()],
        "bytes": {name: value.numpy().tobytes() for name, value in module.state_dict().items()},
    }


def test_the_callers_module_is_left_as_it_was(tiny_module, images_for):
    module = tiny_module(reg_tokens=1, qk_norm=True, pos_drop_rate=0.5, drop_path_rate=0.5, attn_drop_rate=0.5)
    module.train()
    module.blocks[0].eval()
    module.cls_token.requires_grad_(False)
    module.blocks[1].attn.fused_attn = False
    before = _state(module)
    vit = HookedViT(module)
    assert _state(module) == before
    images = images_for(vit)
    assert torch.equal(vit(images), vit(images))  # dropout is off
    vit.run_with_cache(images)
    assert _state(module) == before


@pytest.mark.parametrize("part", ["hook_resid_mid", "attn.hook_pattern", "mlp.hook_pre", "mlp.hook_post"])
def test_the_callers_module_is_left_as_it_was_after_an_exception(tiny_module, images_for, part):
    module = tiny_module().train()
    vit = HookedViT(module)
    before = _state(module)

    def fail(x, hook):
        raise ZeroDivisionError(hook.name)

    with pytest.raises(ZeroDivisionError):
        vit.run_with_hooks(images_for(vit), [(f"blocks.1.{part}", fail)])
    assert _state(module) == before


@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_plain_attention_open_alike(tiny_module, images_for, close, fused):
    module = tiny_module(qk_norm=True)
    for block in module.blocks:
        block.attn.fused_attn = fused
    vit = HookedViT(module)
    close(vit(images_for(vit)), module(images_for(vit)).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_are_upcast_in_a_copy(tiny_module, images_for, dtype):
    module = tiny_module().to(dtype)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    vit = load_vit(module)
    assert vit.dtype == torch.float32 and vit(images_for(vit)).dtype == torch.float32
    assert vit.module is not module
    assert all(value.dtype == dtype and torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ModelError, match=r"load_vit"):
        HookedViT(module)


def test_weights_are_used_by_reference(tiny_module, images_for, close):
    module = tiny_module(init_values=1.0)
    vit = load_vit(module)
    images = images_for(vit)
    for change in ("blocks.0.attn.qkv.weight", "blocks.1.ls1.gamma", "blocks.0.norm2.bias", "norm.weight", "head.bias"):
        before = vit(images)
        with torch.no_grad():
            module.get_parameter(change).mul_(1.5)
        assert float((vit(images) - before).abs().max()) > 1e-6, change
        close(vit(images), module(images).detach())


def test_logits_carry_gradients_to_the_images_but_none_to_the_weights(tiny_vit, images_for):
    vit = tiny_vit()
    images = images_for(vit).requires_grad_()
    vit(images).sum().backward()
    assert images.grad is not None and float(images.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in vit.module.parameters())


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(1, 8, 8), r"image\[None\]"),
        (torch.zeros(2, 1, 9, 8), r"\(2, 1, 9, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"\(batch, 1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), "no images"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "floating"),
        (torch.full((2, 1, 8, 8), torch.nan), "NaN"),
    ],
)
def test_images_that_do_not_fit_are_refused(variant_named, images, says):
    with pytest.raises(DataError, match=says):
        variant_named("plain").check_images(images)

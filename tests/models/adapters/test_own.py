"""ViTs of one's own, in the ways that people write them: each is opened by watching one run, or refused by name."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vitcircuits.algorithms import eap, eap_ig, exact_effects, relp
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import make_baseline, source_values
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.adapters.watching import shadow_of, watch
from vitcircuits.models.errors import ModelError
from vitcircuits.models.projections import CallableReads, FusedReads, SeparateReads
from vitcircuits.models.scrambled import exchange_heads, shuffle_weights

WIDTH, CLASSES = 16, 5
METRIC = Metric("logit_difference", (0,), (2,))


def split_heads(x, n):
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def weigh(q, k, v, scale=None, mask=None):
    """(batch, head, token, width) -> (batch, token, head x width)."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Fused(nn.Module):
    """nanoGPT's `c_attn`: q, then k, then v; perhaps causal."""

    def __init__(self, width, heads, causal=False):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n_head, self.causal = heads, causal

    def forward(self, x):
        q, k, v = (split_heads(part, self.n_head) for part in self.c_attn(x).split(x.shape[-1], 2))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.c_proj(z.transpose(1, 2).reshape(x.shape))


class Arranged(nn.Module):
    """One projection whose rows are (3, head, d), (head, 3, d) or (d, 3, head); norms of queries and keys or none."""

    def __init__(self, width, heads, axes, norms=False, order=(0, 1, 2)):
        super().__init__()
        self.to_qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.axes, self.shape, self.order = axes, {"k": 3, "h": heads, "d": width // heads}, order
        self.q_norm = nn.LayerNorm(width // heads) if norms else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if norms else nn.Identity()

    def forward(self, x):
        parts = self.to_qkv(x).unflatten(-1, [self.shape[axis] for axis in self.axes])
        parts = parts.permute(2 + self.axes.index("k"), 0, 2 + self.axes.index("h"), 1, 2 + self.axes.index("d"))
        q, k, v = (parts[place] for place in self.order)
        return self.proj(weigh(self.q_norm(q), self.k_norm(k), v))


class Separate(nn.Module):
    """Three layers, declared in another order than they run in; keys and values may be shared by all heads."""

    def __init__(self, width, heads, scale=None, shared=False, pair=False):
        super().__init__()
        narrow = width // heads if shared else width
        self.value, self.key = nn.Linear(width, narrow), nn.Linear(width, narrow, bias=False)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.heads, self.factor, self.shared, self.pair = heads, scale, shared, pair

    def forward(self, x):
        k, q, v = self.key(x), split_heads(self.query(x), self.heads), self.value(x)
        k, v = (k[:, None], v[:, None]) if self.shared else (split_heads(k, self.heads), split_heads(v, self.heads))
        out = self.out(weigh(q, k, v, self.factor))
        return (out, None) if self.pair else out


class Weakened(Arranged):
    """What a known tutorial has: rows (head, d, 3), no scale in front of softmax, and a division behind it."""

    def __init__(self, width, heads):
        super().__init__(width, heads, axes="hdk")

    def forward(self, x):
        q, k, v = self.to_qkv(x).unflatten(-1, (self.shape["h"], -1, 3)).permute(4, 0, 2, 1, 3)
        return self.proj(weigh(q, k, v, scale=1.0) / math.sqrt(x.shape[-1]))


class TwoProjections(nn.Module):
    """`to_q` and `to_kv`, wider than the residual."""

    def __init__(self, width, heads):
        super().__init__()
        self.to_q, self.to_kv = nn.Linear(width, 24, bias=False), nn.Linear(width, 48, bias=False)
        self.heads, self.to_out = heads, nn.Sequential(nn.Linear(24, width), nn.Dropout(0.5))

    def forward(self, x):
        q, k, v = (split_heads(part, self.heads) for part in (self.to_q(x), *self.to_kv(x).chunk(2, -1)))
        return self.to_out(weigh(q, k, v))


class OneHead(nn.Module):
    def __init__(self, width, d_head):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, d_head, bias=False) for _ in range(3))

    def forward(self, x):
        k, q = self.key(x), self.query(x)
        return (q @ k.mT * k.shape[-1] ** -0.5).softmax(-1) @ self.value(x)


class ListOfHeads(nn.Module):
    """A module for each head."""

    def __init__(self, width, heads):
        super().__init__()
        self.parts = nn.ModuleList(OneHead(width, width // heads) for _ in range(heads))
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.parts], -1))


class Unprojected(nn.Module):
    """Heads beside one another in the residual."""

    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.heads = nn.Linear(width, 3 * width), heads

    def forward(self, x):
        return weigh(*(split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1)))


class TorchAttention(nn.Module):
    def __init__(self, width, heads, batch_first=True, need_weights=True):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=0.5, batch_first=batch_first)
        self.turned, self.need_weights = not batch_first, need_weights

    def forward(self, x):
        x = x.transpose(0, 1) if self.turned else x
        out, _ = self.attn(x, x, x, need_weights=self.need_weights)
        return out.transpose(0, 1) if self.turned else out


class Normed(nn.Module):
    """A norm across all heads in front of the projection."""

    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.heads, self.norm = nn.Linear(width, 3 * width), heads, nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return self.proj(self.norm(weigh(*(split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1)))))


class SwiGLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, 24), nn.Linear(24, width), nn.Linear(width, 24)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class GEGLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(width, 48), nn.Linear(24, width)

    def forward(self, x):
        values, gates = self.first(x).chunk(2, -1)
        return self.last(values * F.gelu(gates))


class Functional(nn.Module):
    """An MLP whose activation is no module, with a norm behind it."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(width, 24), nn.LayerNorm(24), nn.Linear(24, width)

    def forward(self, x):
        return self.fc2(self.norm(F.gelu(self.fc1(x), approximate="tanh")))


def sequential_mlp(width, act=nn.GELU):
    return nn.Sequential(nn.Linear(width, 24), act(), nn.Dropout(0.5), nn.Linear(24, width), nn.Dropout(0.5))


class GptNorm(nn.Module):
    """nanoGPT's LayerNorm with an optional bias."""

    def __init__(self, width, bias=False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class OwnRms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(torch.ones(width)), 1e-3

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.scale


class Block(nn.Module):
    """norm, attention, norm, MLP; LayerScale as parameters, or none; the residual changed in place, or not."""

    def __init__(self, attn, mlp=sequential_mlp, norm=nn.LayerNorm, scaled=False, in_place=False):
        super().__init__()
        self.ln1, self.attn, self.ln2, self.mlp = norm(WIDTH), attn(WIDTH, 2), norm(WIDTH), mlp(WIDTH)
        self.gamma = nn.Parameter(torch.full((1, 1, WIDTH), 1e-5)) if scaled else 1.0
        self.beta, self.in_place = nn.Parameter(torch.zeros(1)) if scaled else 1.0, in_place

    def forward(self, x):
        out = self.attn(self.ln1(x))
        out = out[0] if isinstance(out, tuple) else out
        if self.in_place:
            x += out
            x += self.mlp(self.ln2(x))
            return x
        x = x + self.gamma * out
        return x + self.beta * self.mlp(self.ln2(x))


class PreNorm(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(WIDTH), inner

    def forward(self, x):
        return self.fn(self.norm(x))


class Residual(PreNorm):
    def forward(self, x):
        return self.fn(self.norm(x)) + x


class PairsOfParts(nn.Module):
    """A list of pairs, the residual outside of them."""

    def __init__(self):
        super().__init__()
        pairs = [[PreNorm(Separate(WIDTH, 2)), PreNorm(sequential_mlp(WIDTH))] for _ in range(2)]
        self.layers = nn.ModuleList(map(nn.ModuleList, pairs))

    def forward(self, x):
        for attn, mlp in self.layers:
            x = attn(x) + x
            x = mlp(x) + x
        return x


class Vit(nn.Module):
    """The rest: patches by a convolution or a linear layer, positions, registers, pooling, head."""

    def __init__(
        self,
        body,
        *,
        pool=lambda x: x[:, 0],
        norm=True,
        head=None,
        patches="conv",
        positions="parameter",
        registers=0,
        has_cls=True,
        out=lambda logits, _tokens: logits,
        said=True,
    ):
        super().__init__()
        if said:
            self.img_size = 8
        self.embed = nn.Conv2d(1, WIDTH, 4, 4) if patches == "conv" else nn.Linear(16, WIDTH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH)) if has_cls else None
        self.positions = _positions(positions, 4 + has_cls)
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, WIDTH))
        self.body, self.norm = body, nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.pool, self.head, self.out, self.conv = pool, head or nn.Linear(WIDTH, CLASSES), out, patches == "conv"

    def forward(self, images):
        if self.conv:
            x = self.embed(images).flatten(2).transpose(1, 2)
        else:
            x = self.embed(F.unfold(images, 4, stride=4).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + (self.positions.weight if isinstance(self.positions, nn.Embedding) else self.positions[: x.shape[1]])
        x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        tokens = self.norm(self.body(x))
        return self.out(self.head(self.pool(tokens)), tokens)


def _positions(kind, count):
    if kind == "embedding":
        return nn.Embedding(count, WIDTH)
    values = torch.randn(count if kind == "parameter" else 100, WIDTH, generator=torch.Generator().manual_seed(0))
    return nn.Parameter(values) if kind == "parameter" else values.double()


def body(attn, **options):
    return nn.Sequential(*(Block(attn, **options) for _ in range(2)))


class InlineHead(nn.Module):
    """Two layers with a function in between."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


class MatrixHead(nn.Module):
    """CLIP's: a norm of the pooled vector, times a parameter."""

    def __init__(self):
        super().__init__()
        self.ln_post, self.proj = nn.LayerNorm(WIDTH), nn.Parameter(torch.zeros(WIDTH, CLASSES))

    def forward(self, x):
        return self.ln_post(x) @ self.proj


def mean(x):
    return x.mean(1)


def first_and_mean(x):
    return torch.cat([x[:, 0], x[:, 1:].mean(1)], -1)


def by_name(logits, tokens):
    return {"tokens": tokens, "logits": logits}


@dataclass
class Answer:
    logits: torch.Tensor
    tokens: torch.Tensor


def layered_head(width=WIDTH):
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))


OWN = {
    "nanogpt": lambda: Vit(body(Fused, norm=GptNorm)),
    "causal": lambda: Vit(body(partial(Fused, causal=True)), has_cls=False, pool=mean),
    "rows-3hd-norms": lambda: Vit(body(partial(Arranged, axes="khd", norms=True)), pool=lambda x: x[:, 1:].mean(1)),
    "rows-h3d": lambda: Vit(
        body(partial(Arranged, axes="hkd"), mlp=SwiGLU), out=lambda y, x: {"tokens": x, "logits": y}
    ),
    "rows-d3h": lambda: Vit(body(partial(Arranged, axes="dkh", order=(1, 0, 2))), positions="embedding"),
    "separate": lambda: Vit(body(Separate, norm=OwnRms, mlp=Functional), said=False, out=lambda y, x: (y, x)),
    "separate-unscaled": lambda: Vit(body(partial(Separate, scale=1.0, pair=True)), head=InlineHead()),
    "separate-by-width": lambda: Vit(body(partial(Separate, scale=1 / math.sqrt(WIDTH))), norm=False),
    "shared-keys": lambda: Vit(body(partial(Separate, shared=True), mlp=GEGLU), patches="linear", said=False),
    "weakened": lambda: Vit(body(Weakened), out=Answer),
    "two-projections": lambda: Vit(body(TwoProjections), norm=False, head=layered_head(), pool=mean),
    "list-of-heads": lambda: Vit(body(ListOfHeads), positions="buffer", registers=2),
    "unprojected": lambda: Vit(body(Unprojected, mlp=partial(sequential_mlp, act=partial(nn.ReLU, inplace=True)))),
    "torch": lambda: Vit(body(TorchAttention, in_place=True), registers=1, pool=lambda x: x[:, 2:].mean(1)),
    "torch-token-first": lambda: Vit(body(partial(TorchAttention, batch_first=False, need_weights=False)), said=False),
    "joint-norm": lambda: Vit(body(Normed)),
    "layer-scale": lambda: Vit(
        body(Separate, scaled=True),
        pool=lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1)], -1),
        head=layered_head(2 * WIDTH),
    ),
    "residual-modules": lambda: Vit(
        nn.Sequential(*(nn.Sequential(Residual(Fused(WIDTH, 2)), Residual(sequential_mlp(WIDTH))) for _ in range(2)))
    ),
    "pairs": lambda: Vit(PairsOfParts(), norm=False, pool=mean),
    "attention-only": lambda: Vit(nn.Sequential(*(Residual(Fused(WIDTH, 2)) for _ in range(2)))),
    "head-before-pooling": lambda: Vit(
        body(Fused), head=nn.Sequential(nn.Linear(WIDTH, CLASSES)), pool=lambda x: x, out=lambda y, _: y.mean(1)
    ),
    "matrix-head": lambda: Vit(body(Fused), norm=False, head=MatrixHead()),
    "log-probabilities": lambda: Vit(body(Fused), out=lambda y, _: F.log_softmax(y, -1)),
}


def make_own(kind):
    module = OWN[kind]().double().eval()
    generator = torch.Generator().manual_seed(len(kind))
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            around_one = float(parameter.ndim == 1 and not key.endswith("bias"))
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + around_one)
    return module


@pytest.fixture(scope="module")
def own():
    """An opened ViT by its kind, made once and not to be changed."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = load_vit(make_own(kind))
        return made[kind]

    return get


@pytest.fixture(scope="module", params=OWN)
def vit(request, own):
    """Each of them."""
    return own(request.param)


def logits_of(vit, images):
    with torch.no_grad():
        return vit.opened.forward(images)


def make_task(vit, images_for):
    pairs = [images_for(vit, 2, seed=seed) for seed in range(4)]
    return Task(vit, METRIC, Pairs(*pairs[:2]), Pairs(*pairs[2:]))


def test_law_1_logits_and_residual_are_the_originals(vit, images_for, close):
    images, residuals = images_for(vit), []
    wanted = logits_of(vit, images)
    close(vit(images), wanted)
    assert float(wanted.std()) > 0.05 and vit.parity.max_difference <= 1e-9
    handles = [one.register_forward_hook(lambda _m, _a, out: residuals.append(out)) for one in vit.opened.originals]
    logits_of(vit, images)
    assert len(residuals) == len(handles) and all(handle.remove() is None for handle in handles)
    with torch.no_grad(), vit.borrowed():
        total = source_values(vit, images).sum(0) + sum(block.attn_bias for block in vit.blocks)
    if residuals:
        close(total, residuals[-1])


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_law_2_all_edges_are_the_clean_run_and_none_the_corrupted_one(vit, images_for, close, tokens):
    clean, corrupt = images_for(vit, 2, seed=0), images_for(vit, 2, seed=1)
    graph = compile_graph(vit, tokens=tokens)
    full = np.ones(len(graph), dtype=bool)
    close(run_circuit(vit, Circuit(graph, full), clean, corrupt), logits_of(vit, clean))
    close(run_circuit(vit, Circuit(graph, ~full), clean, corrupt), logits_of(vit, corrupt))


def test_law_4_eap_is_the_derivative_along_the_mask(vit, images_for):
    task, graph = make_task(vit, images_for), compile_graph(vit, tokens="role")
    soft = torch.ones(len(graph), dtype=torch.float64, requires_grad=True)
    with vit.borrowed():
        ablated = make_baseline(vit, task.ablation, task.reference)(task.discovery)
        weights = MaskWeights.from_tensor(graph, soft)
        value = METRIC(masked_logits(vit, weights, task.discovery.clean, ablated)).mean()
        (wanted,) = torch.autograd.grad(value, soft)
    got = eap(graph, task, freeze_norm=False, softmax="linear").values
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-9 * max(1, float(wanted.abs().max())))


def test_hooks_change_nothing_and_neurons_are_what_fc2_is_handed(vit, images_for, close):
    images = images_for(vit)
    logits, cache = vit.run_with_cache(images)
    close(logits, vit(images))
    for layer, block in enumerate(vit.blocks):
        close(cache["result", layer].sum(2) + block.attn_bias.detach(), cache["attn_out", layer])
        if block.mlp is not None:
            close(block.mlp_written(block.mlp.fc2(cache["post", layer])).detach(), cache["mlp_out", layer])


@pytest.mark.parametrize("kind", ["rows-h3d", "shared-keys", "unprojected", "layer-scale"])
def test_exact_effects_and_relp_run_on_what_is_read_in_an_unusual_way(own, images_for, kind):
    vit = own(kind)
    task, graph = make_task(vit, images_for), compile_graph(vit, ports="head")
    exact, full = exact_effects(graph, task).values, np.ones(len(graph), dtype=bool)
    pairs, now = task.discovery, float(METRIC(vit(task.discovery.clean)).mean())
    for edge in range(0, len(graph), 7):
        mask = full.copy()
        mask[edge] = False
        without = float(METRIC(run_circuit(vit, Circuit(graph, mask), pairs.clean, pairs.corrupt)).mean())
        assert exact[edge] == pytest.approx(now - without, abs=1e-9)
    for scores in (relp(graph, task), eap_ig(graph, task, steps=2)):
        assert np.isfinite(scores.values).all() and float(np.abs(scores.values).max()) > 0


@pytest.mark.parametrize(
    ("kind", "reads"),
    [("nanogpt", FusedReads), ("separate", SeparateReads), ("rows-h3d", CallableReads), ("shared-keys", CallableReads)],
)
def test_projections_in_canonical_order_are_taken_by_reference(own, kind, reads):
    assert all(type(block.reads) is reads for block in own(kind).blocks)


def test_tokens_are_told_from_the_pixels_that_move_them(own):
    assert own("list-of-heads").cfg.tokens.token_names() == ("cls", "reg0", "reg1", "r0c0", "r0c1", "r1c0", "r1c1")
    assert own("causal").cfg.tokens.token_names() == ("r0c0", "r0c1", "r1c0", "r1c1")
    assert own("torch").cfg.read_tokens == (2, 3, 4, 5) and own("torch").cfg.patch_size == (4, 4)


def test_weights_that_hide_what_reads_what_are_read_all_the_same(images_for, close):
    """Zero heads, positions and LayerScale, as they are at the start of training."""
    module = OWN["layer-scale"]().double().eval()
    nn.init.zeros_(module.head[1].weight)
    vit = load_vit(module)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    images = images_for(vit)
    close(vit(images), logits_of(vit, images))
    assert float(vit(images).std()) > 0.05


def test_the_module_is_left_as_it_was(images_for):
    module = make_own("torch").train().requires_grad_(True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    vit = load_vit(module)
    assert vit.module is module and all(part.training and not part._forward_hooks for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() and all(part.requires_grad for part in module.parameters())


def test_controls_are_copies_that_are_opened_in_the_same_way(own, images_for):
    module = Vit(body(Fused), positions="buffer", said=False).double()
    images = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    for vit in (load_vit(module, image_size=12), own("rows-h3d")):
        for scramble in (exchange_heads, shuffle_weights):
            found, some = scramble(vit), images if vit.module is module else images_for(vit, 2)
            assert float((found(some) - vit(some)).abs().max()) > 1e-3
    with pytest.raises(ModelError, match="has two heads with a projection"):
        exchange_heads(own("unprojected"))


def test_a_module_that_cannot_be_copied_is_watched_itself(close, images_for):
    module = make_own("separate")
    module.kept = module.head(torch.zeros(1, WIDTH, dtype=torch.float64))  # no leaf: deepcopy refuses it
    assert shadow_of(module) is module
    vit = load_vit(module)
    images = images_for(vit)
    close(vit(images), logits_of(vit, images))


def test_the_size_of_images_is_said_or_found_or_asked_for():
    assert watch(make_own("separate"), "mine").images.shape == (2, 1, 8, 8)  # as many positions as patches and a token
    sliced = Vit(body(Fused), positions="buffer", said=False).double()  # runs on any size of up to 99 patches
    with pytest.raises(ModelError, match=r"several run, such as .* load_vit\(module, image_size=224\)"):
        load_vit(sliced)
    assert load_vit(sliced, image_size=12).cfg.tokens.grid == (3, 3)
    assert load_vit(sliced, image_size=(8, 16)).cfg.tokens.grid == (2, 4)


class Talking(Fused):
    """Heads whose patterns are mixed: there is no softmax of a head's own."""

    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.talk = nn.Linear(heads, heads, bias=False)

    def forward(self, x):
        q, k, v = (split_heads(part, self.n_head) for part in self.c_attn(x).split(x.shape[-1], 2))
        pattern = self.talk((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).movedim(1, -1)).movedim(-1, 1)
        return self.c_proj((pattern @ v).transpose(1, 2).reshape(x.shape))


class Shift(nn.Module):
    """Each token beside the one in front of it."""

    def forward(self, x):
        return x + x.roll(1, 1)


class Mixing(nn.Module):
    """An MLP that mixes tokens."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.shift, self.fc2 = nn.Linear(width, 24), Shift(), nn.Linear(24, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.shift(self.fc1(x))))


class PostNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.norm1 = Fused(WIDTH, 2), nn.LayerNorm(WIDTH)
        self.mlp, self.norm2 = sequential_mlp(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class NormedWrites(PostNorm):
    def forward(self, x):
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class DroppingOut(Vit):
    def __init__(self):
        super().__init__(body(Fused))

    def forward(self, images):
        return super().forward(F.dropout(images))


class Overlapping(Vit):
    def __init__(self):
        super().__init__(body(Fused))
        self.embed = nn.Conv2d(1, WIDTH, 6, 4, padding=1)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True, **options)
    return nn.Sequential(layer, layer)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Vit(body(Talking)),
            "runs a Talking with projections of 48 columns in all, and one of 16",
        ),
        (lambda: Vit(body(Fused, mlp=Mixing)), "runs a Mixing with projections of 24 columns in all, and one of 24"),
        (lambda: Vit(nn.Sequential(PostNorm(), PostNorm())), "its writes pass a norm before they are added"),
        (lambda: Vit(nn.Sequential(NormedWrites(), NormedWrites())), "its writes pass a norm before they are added"),
        (lambda: Vit(encoder(norm_first=False)), "its writes pass a norm before they are added"),
        (lambda: Vit(body(Fused), pool=lambda x: x.amax(1)), "pools its tokens, or goes on from them, in a way"),
        (lambda: Vit(body(Fused), pool=lambda x: x[:, 1]), "pools its tokens, or goes on from them, in a way"),
        (Overlapping, "each read their own pixels alone"),
        (DroppingOut, "gives other values for the same images each time"),
        (lambda: Vit(nn.Identity()), "without a stack of transformer blocks"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_with_the_way_out(make, said):
    with pytest.raises(ModelError, match=said) as caught:
        load_vit(make())
    assert any(way in str(caught.value) for way in ("pre-norm blocks", "docs/models.md", "training=self.training"))

"""An adapter opens what cannot be told by watching: the one in docs/models.md, as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from vitcircuits.models import load_vit, open_around
from vitcircuits.models.adapters.watching import draw_weights
from vitcircuits.models.errors import ModelError
from vitcircuits.models.foreign import FOREIGN

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


@pytest.fixture(scope="module")
def page():
    """What the page's blocks of Python leave behind, each run by itself, in order."""
    pytest.importorskip("vit_pytorch", reason="vit_pytorch is not installed")
    found = []
    for block in re.findall("```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        found.append({})
        exec(block, found[-1])
    return found


def make_small(page):
    module = page[1]["ViT"](**page[1]["sizes"], num_classes=10).double().eval()
    draw_weights(module)
    return module


def test_three_lines_open_a_vit_that_can_be_told(page):
    assert page[0]["vit"].cfg.n_heads == 4 and page[0]["vit"].cfg.tokens.grid == (4, 4)


def test_the_page_s_adapter_opens_a_vit_that_cannot(page, images_for, close):
    module = make_small(page)
    vit = load_vit(module, adapter=page[1]["open_small"])
    images = images_for(vit)
    close(vit(images), module(images).detach())
    assert vit.cfg.tokens.n_tokens == 17 and float(vit(images).std()) > 0.05
    _, cache = vit.run_with_cache(images)
    assert float(cache["pattern", 0].diagonal(dim1=-2, dim2=-1).abs().max()) == 0
    with torch.no_grad():
        for attention, _ in module.transformer.layers:
            attention.temperature.add_(0.5)  # weights are looked up at each use
    close(vit(images), module(images).detach())


def test_without_it_the_refusal_names_the_page(page):
    with pytest.raises(ModelError, match=r"runs a LSA .* docs/models.md shows, under 'An adapter'"):
        load_vit(make_small(page))


def test_blocks_that_are_not_the_originals_are_refused(page):
    module = make_small(page)

    def forgotten(module, name):
        opened = page[1]["open_small"](module, name)
        blocks = opened.blocks[:1] * 2
        around = {"first": module.transformer, "last": module.transformer, "layout": opened.cfg.tokens}
        return open_around(module, name, blocks, **around, patch_size=(8, 8))

    with pytest.raises(ModelError, match="the blocks that the adapter made for ViT give a last residual that differs"):
        load_vit(module, adapter=forgotten)


def test_stem_and_readout_are_found_around_blocks_that_are_known(images_for, close):
    module = FOREIGN["own-fused"].make().double().eval()
    blocks = load_vit(module).blocks

    def adapter(module, name):
        return open_around(module, name, blocks, first=module.body, last=module.body[-1])

    vit = load_vit(module, adapter=adapter)
    images = images_for(vit)
    close(vit(images), module(images).detach())
    with pytest.raises(ModelError, match="doesn't run first= or last= in its forward pass"):
        load_vit(
            module, adapter=lambda module, name: open_around(module, name, blocks, first=blocks[0].mlp, last=module)
        )


def test_an_adapter_is_for_modules():
    with pytest.raises(ModelError, match="adapter= opens a module, but the source is 'toy/digits-2l'"):
        load_vit("toy/digits-2l", adapter=open_around)

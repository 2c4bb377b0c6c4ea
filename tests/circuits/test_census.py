"""Every ViT architecture of timm is opened faithfully or refused with its reason: the census, and a sample of it."""

import warnings
from pathlib import Path

import pytest
from vitcircuits.circuits.truths.architecture_check import check_architecture, check_module
from vitcircuits.models.census import FAMILIES, architectures, describe, family_of, refusal
from vitcircuits.models.foreign import FOREIGN

REFUSED = {  # architecture: what the reason must say
    "vit_base_patch16_rpn_224": "pass a norm before they are added",
    "eva02_enormous_patch14_clip_224": "pass a norm before they are added",
    "vit_dpwee_patch16_reg1_gap_256": "differential attention",
    "vit_dwee_patch16_reg1_gap_256": "differential attention",
    "vit_dlittle_patch16_reg1_gap_256": "differential attention",
}
SAMPLE = (  # one of each way to build a ViT, small ones
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_xsmall_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_pe_core_tiny_patch16_384",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_small_patch16_18x2_224",
    "vit_small_patch16_36x1_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224",
    "beit3_base_patch16_224",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_rope_mixed_224",
    "vit_base_patch16_sapiens2",
    "test_vit4",
)


def check(name):
    found = check_architecture(name)
    if name in REFUSED:
        assert REFUSED[name] in found.refusal
    else:
        assert found.holds, str(found)


@pytest.mark.parametrize("name", [*SAMPLE, *REFUSED])
def test_a_sample_of_every_family_holds_the_laws(name):
    check(name)


@pytest.mark.census
@pytest.mark.parametrize("name", architectures())
def test_every_architecture_holds_the_laws_or_is_refused_with_its_reason(name):
    check(name)


@pytest.mark.census
def test_at_least_237_architectures_are_opened():
    refused = {name for name in architectures() if refusal(name)}
    assert refused == set(REFUSED) and len(architectures()) - len(refused) >= 237


@pytest.mark.parametrize("kind", FOREIGN)
def test_models_of_other_libraries_and_ones_own_hold_the_laws(kind):
    """In float32, as they are used; those of bridges are in float32 whatever their weights are in."""
    pytest.importorskip(FOREIGN[kind].library, reason=f"{FOREIGN[kind].library} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries' imports say is no matter here
        module = FOREIGN[kind].small()
    found = check_module(lambda: module, kind)
    assert found.holds, str(found)
    assert max(found.differences.values()) <= 0.1, "1e-5 of the largest value"


def test_sizes_are_read_without_making_weights():
    cfg = describe("vit_7b_patch16_dinov3")
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.tokens.n_tokens) == (40, 32, 4096, 1 + 4 + 16 * 16)
    assert refusal("vit_tiny_patch16_224") == ""


def test_every_architecture_has_a_family_and_every_family_an_architecture():
    found = {family_of(name) for name in architectures()}
    assert found == set(FAMILIES)


def test_every_example_is_a_name_that_timm_knows():
    import timm

    known = {*timm.list_pretrained(), *timm.list_models()}
    assert {family.example for family in FAMILIES if family.example} <= known


@pytest.mark.census
def test_the_page_of_models_is_what_the_command_writes():
    from vitcircuits.cli.models import tables, versions

    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    if versions() not in page:
        pytest.skip(f"docs/models.md was made with other libraries. Here it would be: {versions()}")
    assert tables() in page

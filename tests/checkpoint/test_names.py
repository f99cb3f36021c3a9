"""The authors' names and ours: the same tensors, one to one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvit.checkpoint.infer import infer_config
from bitvit.checkpoint.names import authors_name, module, rename
from bitvit.checkpoint.shapes import expected_shapes, parameter_shapes
from bitvit.config import Config
from bitvit.verify import reference
from tests.support.configs import MICRO, TINY
from tests.support.golden_data import case_names, load_case
from tests.support.shapes import random_shape


def assert_one_to_one(config: Config) -> None:
    ours, theirs = parameter_shapes(config), expected_shapes(config)
    assert len(theirs) == len(ours)
    assert [authors_name(config, name) for name in ours] == list(theirs)
    assert list(rename(config, theirs).items()) == list(ours.items())
    places = {place.name for place in config.places()}
    for name in ours:
        assert any(name.startswith(f"{place}.") for place in places), name


@pytest.mark.parametrize("name", case_names())
def test_golden_names_map_to_ours_and_back(name: str) -> None:
    case = load_case(name)
    config = infer_config(case.state, config_json=case.config)
    renamed = rename(config, case.state)
    assert len(renamed) == len(case.state)
    assert [authors_name(config, ours) for ours in renamed] == list(case.state)
    assert all(a is b for a, b in zip(renamed.values(), case.state.values(), strict=True))
    assert {ours: array.shape for ours, array in renamed.items()} == parameter_shapes(config)
    assert_one_to_one(config)


@given(seed=st.integers(0, 2**32 - 1))
def test_names_of_any_network_map_to_ours_and_back(seed: int) -> None:
    assert_one_to_one(random_shape(seed))


@pytest.mark.parametrize("config", [MICRO, TINY, replace(MICRO, quantizer="gsb", downsampling="binary")], ids=str)
def test_modules_are_those_that_the_reference_walks(config: Config) -> None:
    """reference.py knows the authors' names from the SPEC alone."""
    walked = [prefix for prefix, _ in reference.schedule(config.depths)]
    assert [module(config, place) for place in config.places()] == ["vit.embeddings", *walked, ""]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stem.weight", "vit.embeddings.patch_embeddings.proj.weight"),
        ("stem.norm.running_var", "vit.embeddings.patch_embeddings.norm.running_var"),
        ("stem.position", "vit.embeddings.position_embeddings"),
        ("stages.2.downsample.norm.weight", "vit.encoder.patch_embed2.norm0.weight"),
        ("stages.2.downsample.out_norm.weight", "vit.encoder.patch_embed2.norm.weight"),
        ("stages.2.downsample.rprelu.slope", "vit.encoder.patch_embed2.rprelu.prelu.weight"),
        ("stages.1.blocks.1.mixer.norm.bias", "vit.encoder.layerA.2.layernorm_before.bias"),
        ("stages.1.blocks.1.mixer.move", "vit.encoder.layerA.2.GC.move.bias"),
        ("stages.1.blocks.1.mixer.convs.0.bias", "vit.encoder.layerA.2.GC.cov1.bias"),
        ("stages.1.blocks.1.mixer.convs.2.rprelu.move1", "vit.encoder.layerA.2.GC.act3.move1"),
        ("stages.1.blocks.1.mixer.convs.2.rprelu.slope", "vit.encoder.layerA.2.GC.act3.prelu.weight"),
        ("stages.1.blocks.1.mixer.out_norm.weight", "vit.encoder.layerA.2.GC.norm.weight"),
        ("stages.3.blocks.0.attention.max_share", "vit.encoder.layerB.2.attention.attention.token_FA.a1"),
        ("stages.3.blocks.0.attention.key.weight", "vit.encoder.layerB.2.attention.attention.key.weight"),
        ("stages.3.blocks.0.attention.key.move", "vit.encoder.layerB.2.attention.attention.movek"),
        ("stages.3.blocks.0.attention.key.out_move", "vit.encoder.layerB.2.attention.attention.movek2"),
        ("stages.3.blocks.0.attention.value.norm.bias", "vit.encoder.layerB.2.attention.attention.normv.bias"),
        ("stages.3.blocks.0.attention.clip.0", "vit.encoder.layerB.2.attention.attention.att_prob_clip"),
        ("stages.3.blocks.0.attention.clip.2", "vit.encoder.layerB.2.attention.attention.att_prob_clip3"),
        (
            "stages.3.blocks.0.attention.quantizer.alpha",
            "vit.encoder.layerB.2.attention.attention.att_prob_quantizer.alpha",
        ),
        (
            "stages.3.blocks.0.attention.context.rprelu.slope",
            "vit.encoder.layerB.2.attention.attention.rprelu_context.prelu.weight",
        ),
        ("stages.3.blocks.0.attention.fine_share", "vit.encoder.layerB.2.attention.attention.parm"),
        ("stages.3.blocks.0.attention.output.weight", "vit.encoder.layerB.2.attention.output.dense.weight"),
        (
            "stages.3.blocks.0.attention.output.layer_scale.move",
            "vit.encoder.layerB.2.attention.output.layerscale.move",
        ),
        ("stages.3.blocks.0.mlp.fc1.rprelu.slope", "vit.encoder.layerB.2.intermediate.rprelu.prelu.weight"),
        ("stages.3.blocks.0.mlp.fc2.weight", "vit.encoder.layerB.2.output.dense.weight"),
        ("stages.3.blocks.0.mlp.fc2.layer_scale.alpha", "vit.encoder.layerB.2.output.layerscale.alpha"),
        ("stages.3.blocks.0.mlp.shifts.ch5.alpha", "vit.encoder.layerB.2.layerscale_ch5.alpha"),
        ("head.norm.running_mean", "vit.layernorm.running_mean"),
        ("head.weight", "classifier.weight"),
    ],
)
def test_pairs_of_the_table(ours: str, theirs: str) -> None:
    assert authors_name(MICRO, ours) == theirs
    assert rename(MICRO, {theirs: 1}) == {ours: 1}


@pytest.mark.parametrize("name", ["stages.0.blocks.7.mixer.move", "stages.0.blocks.0.attention.move", "weight", ""])
def test_names_that_are_not_ours(name: str) -> None:
    with pytest.raises(KeyError):
        authors_name(MICRO, name)


@pytest.mark.parametrize("name", ["vit.encoder.layerA.0.pool.weight", "vit.encoder.layerA.9.GC.move.bias", "x", ""])
def test_names_that_are_not_the_authors(name: str) -> None:
    with pytest.raises(KeyError):
        rename(MICRO, {name: 1})

"""State dicts of other networks, of forks, and in parts."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.checkpoint.check import check_state, refuse_foreign
from bitvit.checkpoint.infer import infer_config
from bitvit.errors import CheckpointError
from tests.support.configs import MICRO, VARIANTS, zeros


def refuse_check(state: Mapping[str, NDArray[Any]], *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_state(state, MICRO)
    for part in ("not a BHViT as published: ", *parts):
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["conv1.weight", "layer1.0.conv1.weight"], "this is a ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "this is a DeiT or timm ViT"),
        (["vit.encoder.layer.0.attention.attention.query.weight"], "this is a plain Hugging Face ViT"),
        (["layers.0.blocks.0.attn.qkv.weight"], "this is a Swin transformer"),
        (["a.weight"], "this is not a BHViT state dict: none of 'vit.encoder.layerA"),
        (["student.vit.encoder.layerA.0.GC.move.bias"], "names begin with 'student.', expected 'vit.'"),
    ],
)
def test_other_architectures_are_named(names: list[str], what: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        refuse_foreign(dict.fromkeys(names, np.zeros(1)))
    assert what in str(caught.value)
    assert f"the first names are '{names[0]}'" in str(caught.value)


def test_first_names_are_a_sample() -> None:
    with pytest.raises(CheckpointError, match=r"'fc7\.weight' and 3 more"):
        refuse_foreign({f"fc{k}.weight": np.zeros(1) for k in range(11)})


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_complete_state_passes(changes: dict[str, Any]) -> None:
    config = replace(MICRO, **changes)
    check_state(zeros(config), config)


def test_missing_tensors_are_listed() -> None:
    """Three blocks with 3 + 2 RPReLUs, three with 4 + 3."""
    state = zeros(MICRO)
    for name in [name for name in state if ".move1" in name]:
        del state[name]
    refuse_check(state, "36 tensors missing: 'vit.encoder.layerA.0.GC.act1.move1', ", " and 28 more")


def test_wrong_shapes_and_kinds_are_listed() -> None:
    state = zeros(MICRO)
    state["classifier.bias"] = np.zeros(6, np.float32)
    state["vit.layernorm.weight"] = np.zeros(32, np.int64)
    refuse_check(
        state,
        "'vit.layernorm.weight' is int64[32], expected float[32]",
        "'classifier.bias' is float32[6], expected float[5]",
    )
    refuse_check({name: array.astype(np.int8) for name, array in state.items()}, "more")


def test_double_precision_passes() -> None:
    check_state({name: array.astype(np.float64) for name, array in zeros(MICRO).items()}, MICRO)


def test_extra_modules_are_told_from_extra_tensors() -> None:
    state = zeros(MICRO)
    for name in (
        "coord_conv.weight",
        "coord_conv.bias",
        "vit.stain_norm.mean",
        "vit.encoder.layerB.0.pool.q.weight",
    ):
        state[name] = np.zeros(1, np.float32)
    state["vit.layernorm.extra"] = np.zeros(1, np.float32)
    refuse_check(
        state,
        "3 extra modules of a fork, not part of BHViT: 'coord_conv', 'vit.stain_norm', 'vit.encoder.layerB.0.pool'",
        "1 unexpected tensor: 'vit.layernorm.extra'",
    )
    check = {**zeros(MICRO), "coord_conv.weight": np.zeros(1)}
    refuse_check(check, "1 extra module of a fork, not part of BHViT: 'coord_conv';")


def test_optional_tensors_may_be_absent() -> None:
    state = {
        name: array for name, array in zeros(MICRO).items() if not name.endswith(("num_batches_tracked", "init_state"))
    }
    check_state(state, infer_config(state))


def test_claims_of_many_blocks_cost_little() -> None:
    """A small file can claim 4,096 blocks, which would have 346,163 tensors; slow machines get five times the 2 s."""
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="315435 tensors missing"):
        check_state({}, replace(MICRO, depths=(1024, 1024, 1024, 1024)))
    assert time.process_time() - begin < 10

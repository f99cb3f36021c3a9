"""What checkpoints say of the preparation of images, where a conversion does otherwise."""

from pathlib import Path
from typing import Any

import pytest

from bitvit.checkpoint import Checkpoint
from bitvit.conversion import choose_preprocessing

PROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": 256},
}  # fmt: skip


def notes(
    args: dict[str, Any] | None,
    processor: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **given: Any,
) -> list[str]:
    """The notes after the first, which says how images are prepared."""
    checkpoint = Checkpoint(Path("x"), {}, args, "", False, "memory", preprocessor=processor, config=config)
    options = {"mean": None, "std": None, "resize": "auto", "pad": 0} | given
    return choose_preprocessing(checkpoint, 224, **options)[1][1:]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"eval_crop_ratio": 1.0}, "eval_crop_ratio 1: if it was used in evaluations, give --resize 224"),
        ({"crop_pct": 0.9}, "crop_pct 0.9: if it was used in evaluations, give --resize 248"),
        ({"data": {"crop_pct": 0.9}}, "--resize 248"),
        ({"interpolation": "bilinear"}, "interpolation 'bilinear': images are resized bicubically"),
        (
            {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
            "std [58.4, 57.1, 57.4]: if images were normalised with that",
        ),
        ({"mean": [0.5] * 3}, "mean [0.5, 0.5, 0.5]: if"),
        ({"mean": "0.5 0.5 0.5", "std": "0.5 0.5 0.5"}, "std '0.5 0.5 0.5': if"),
    ],
)
def test_options(args: dict[str, Any], said: str) -> None:
    (note,) = notes(args)
    assert note.startswith("not followed in the preprocessing: the checkpoint's args: ")
    assert said in note


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"do_normalize": False}, "do_normalize false: for pixels from 0 to 1 give --mean 0 --std 1"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 0.00784314: pixels are divided by 255"),
        ({"resample": 2}, "resample 2: images are resized bicubically"),
        ({"size": {"shortest_edge": 240}}, "shortest_edge 240: give --resize 240"),
        ({"size": {"height": 224, "width": 224}}, "size height 224, width 224: images are resized by their shorter"),
        ({"size": 224}, "size 224: images are resized by"),
        ({"size": dict.fromkeys("abcde", 1)}, "size a 1, b 1, c 1, d 1: images are resized by"),
    ],
)
def test_image_processors(fields: dict[str, Any], said: str) -> None:
    (note,) = notes(None, PROCESSOR | fields)
    assert note.startswith(f"not followed in the preprocessing: preprocessor_config.json: {said}")


def test_image_processors_resize_unless_they_say_otherwise() -> None:
    processor = PROCESSOR | {"size": {"shortest_edge": 240}}
    assert notes(None, processor | {"do_resize": False}) == []
    del processor["do_resize"]
    assert "shortest_edge 240: give --resize 240" in notes(None, processor)[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "mean [123.7, 116.3, 103.5], std ["),
        ({"mean": 0.5, "std": 0.5}, "mean 0.5, std 0.5: if images were normalised with that, give --mean"),
        ({"image_mean": [0.5]}, "image_mean [0.5]: if images were"),
        ({"do_normalize": False}, "do_normalize false: for pixels from 0 to 1 give --mean 0 --std 1"),
        ({"data": {"crop_pct": 0.9}}, "crop_pct 0.9: if it was used in evaluations, give --resize 248"),
    ],
)
def test_config_json(fields: dict[str, Any], said: str) -> None:
    (note,) = notes(None, None, fields)
    assert note.startswith(f"not followed in the preprocessing: config.json: {said}")
    assert notes({}, None, {"size": 3, "mean": [0.5] * 3, "std": [0.5] * 3}) == []
    both = notes({"mean": [0.5] * 3, "std": [0.5] * 3}, None, {"mean": [0.25] * 3, "std": [0.5] * 3})
    assert [note.partition(": ")[2][:28] for note in both] == ["config.json: mean [0.25, 0.2"]


def test_nothing_is_said_where_it_agrees_or_was_decided() -> None:
    assert notes({"eval_crop_ratio": 0.875, "crop_pct": None, "interpolation": "bicubic", "data_set": "CIFAR"}) == []
    assert notes({"mean": [0.5] * 3, "std": [0.5] * 3}) == []
    assert notes(None, PROCESSOR) == []
    assert notes({"crop_pct": 0.9, "mean": [123] * 3}, resize=248, mean=[0.5], std=[0.5]) == []
    assert notes({"crop_pct": 0.9}, pad=1) == []
    assert len(notes({"std": [58.4, 57.1, 57.4]}, mean=[0.5])) == 1
    assert len(notes({"mean": [123.7, 116.3, 103.5]}, std=[0.5])) == 1


def test_integers_beyond_every_float_tell_nothing() -> None:
    """Pickles and JSON hold integers of any length."""
    huge = 10**400
    (note,) = notes({"crop_pct": huge, "mean": [huge] * 3, "std": [huge] * 3})
    assert "if images were normalised with that" in note
    (note,) = notes(None, PROCESSOR | {"image_mean": [huge] * 3, "rescale_factor": huge})
    assert "image_mean [1000" in note

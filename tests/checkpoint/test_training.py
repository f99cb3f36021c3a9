"""What checkpoints tell of images and classes."""

from pathlib import Path
from typing import Any

import pytest

from bitvit.checkpoint import Checkpoint
from bitvit.checkpoint.training import class_names, normalization, placeholders, repeated
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD

CERVICAL = ((0.6776, 0.4484, 0.4917), (0.1164, 0.1472, 0.1421))
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
HALVED = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
HALVES = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def checkpoint(
    args: dict[str, Any] | None = None,
    preprocessor: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Checkpoint:
    return Checkpoint(Path("x"), {}, args, "", False, "memory", preprocessor=preprocessor, config=config)


@pytest.mark.parametrize(
    ("args", "expected", "source"),
    [
        ({"data_set": "CERVICAL"}, CERVICAL, "its own, with which the training code normalises data_set 'CERVICAL'"),
        *(({"data_set": name}, IMAGENET, f"ImageNet's, with which the training code normalises data_set {name!r}")
          for name in ("CIFAR", "IMNET", "INAT", "INAT19", "PETS")),
        ({"data_set": "MINE"}, IMAGENET, "an assumption: data_set 'MINE' is not one of the training code's; if you"),
        ({"data_set": ["CIFAR"]}, IMAGENET, "an assumption: data_set ['CIFAR'] is not one"),
        ({"data_set": "\x1b[2J"}, IMAGENET, "data_set '\\x1b[2J' is not one"),
        ({}, IMAGENET, "the checkpoint tells none; if you trained with others, give them (--mean, --std)"),
        (None, IMAGENET, "an assumption: the checkpoint tells none"),
        ({"data_set": "IMNET", "mean": [0.5] * 3, "std": (0.25,) * 3}, HALVES, "of the checkpoint's args"),
        ({"data_set": "CERVICAL", "mean": None, "std": None}, CERVICAL, "its own"),
        ({"mean": [0.5] * 3}, IMAGENET, "an assumption"),
        ({"mean": [123, 117, 104], "std": [58, 57, 57]}, IMAGENET, "an assumption"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, IMAGENET, "an assumption"),
        ({"mean": ["a", 0, 0], "std": [True, 1, 1]}, IMAGENET, "an assumption"),
    ],
)  # fmt: skip
def test_mean_and_deviation(args: dict[str, Any] | None, expected: object, source: str) -> None:
    found = normalization(checkpoint(args))
    assert (found.mean, found.std) == expected
    assert source in found.source


def test_an_image_processor_tells_them_too() -> None:
    fields = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    found = normalization(checkpoint(None, fields))
    assert ((found.mean, found.std), found.source) == (HALVES, "of preprocessor_config.json")
    without = normalization(checkpoint(None, fields | {"do_normalize": False}))
    assert without.mean == IMAGENET_MEAN
    assert "an assumption: preprocessor_config.json says that images are not normalised; if" in without.source
    assert normalization(checkpoint({"mean": [0.1] * 3, "std": [0.2] * 3}, fields)).mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("names", [("mean", "std"), ("image_mean", "image_std")])
@pytest.mark.parametrize("inside", [False, True])
def test_config_json_tells_them_too(names: tuple[str, str], inside: bool) -> None:
    fields: dict[str, Any] = {names[0]: [0.5] * 3, names[1]: [0.25] * 3}
    config = {"pretrained_cfg": fields} if inside else fields
    for args in (None, {"data_set": "CERVICAL"}):
        found = normalization(checkpoint(args, {"image_mean": [0.1] * 3, "image_std": [0.1] * 3}, config))
        assert ((found.mean, found.std), found.source) == (HALVES, "of config.json")
    told = normalization(checkpoint({"mean": [0.1] * 3, "std": [0.2] * 3}, None, config))
    assert (told.mean, told.source) == ((0.1, 0.1, 0.1), "of the checkpoint's args")
    assert normalization(checkpoint(fields)).source == "of the checkpoint's args"


def test_a_config_json_that_does_not_normalise() -> None:
    found = normalization(checkpoint(None, None, {"do_normalize": False, **HALVED}))
    assert found.mean == IMAGENET_MEAN
    assert "an assumption: config.json says that images are not normalised; if" in found.source


@pytest.mark.parametrize(
    ("config", "names", "note"),
    [
        ({"id2label": {"0": "cat", "1": "dog"}}, ("cat", "dog"), "id2label of config.json"),
        ({"id2label": {"1": "dog", "0": "cat"}}, ("cat", "dog"), "id2label of config.json"),
        ({"id2label": {0: "cat", 1: "dog"}}, ("cat", "dog"), "id2label of config.json"),
        ({"id2label": ["cat", " dog "]}, ("cat", "dog"), "id2label of config.json"),
        ({"id2label": {"0": "LABEL_0", "1": "dog"}}, ("LABEL_0", "dog"), "id2label of config.json"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None, "only placeholders ('LABEL_0', 'LABEL_1'): not used"),
        ({"id2label": {"0": "cat"}}, None, "has 1 name, not 2: not used"),
        ({"id2label": {"0": "cat", "2": "dog"}}, None, "no class '1'"),
        ({"id2label": {"0": "cat", "1": 5}}, None, "class 1: is 5, expected a name in quotes: not used"),
        ({"id2label": "cats"}, None, "holds a JSON str"),
        ({"label2id": {"dog": 1, "cat": 0}}, ("cat", "dog"), "label2id of config.json"),
        ({"label2id": {"dog": "1", "cat": "0"}, "id2label": {}}, ("cat", "dog"), "label2id of config.json"),
        ({"label2id": {"LABEL_0": 0, "LABEL_1": 1}}, None, "none were given"),
        ({"label2id": {"cat": 0, "dog": 0}}, None, "label2id of config.json gives two names one number: not used"),
        ({"label2id": {"cat": 0}}, None, "label2id of config.json has 1 name, not 2: not used"),
        ({"label2id": ["cat", "dog"]}, None, "none were given"),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}, ("cat", "dog"),
         "id2label of config.json"),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}, ("cat", "dog"),
         "id2label of config.json, which its label2id contradicts"),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1}}, ("cat", "dog"), "which its label2id"),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("cat", "dog"), "id2label"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"cat": 0, "dog": 1}}, ("cat", "dog"), "label2id"),
        ({"id2label": {}}, None, "none were given"),
        ({"id2label": None}, None, "none were given"),
        ({}, None, "none were given"),
        (None, None, "none were given"),
    ],
)  # fmt: skip
def test_class_names(config: dict[str, Any] | None, names: tuple[str, ...] | None, note: str) -> None:
    found = class_names(config, 2)
    assert found.names == names
    assert note in found.note


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["LABEL_0", "LABEL_1"], True),
        (["class 0", "Class 1"], True),
        (["class0"], True),
        (["LABEL_0", "cat"], False),
        (["0", "1"], False),
        (["classic"], False),
    ],
)
def test_placeholders(names: list[str], expected: bool) -> None:
    assert placeholders(names) == expected


def test_repeated_names_are_counted() -> None:
    assert repeated(["cat", "dog"]) is None
    assert repeated(["crane", "cat", "crane"]) == "'crane' (classes 0, 2)"
    many = [str(number // 2) for number in range(100)]
    assert str(repeated(many)).endswith("and 46 more")

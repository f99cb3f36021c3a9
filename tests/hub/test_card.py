"""The card of a published model."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from bitvit.errors import HubError, ModelFileError
from bitvit.hub.pushing import prepare
from bitvit.modelfile import load_model_file, save_model_file
from bitvit.summary import summarize


def test_front_matter_and_facts(tiny: Path) -> None:
    card = prepare(tiny, "me/digits").card
    front = "library_name: bitvit\npipeline_tag: image-classification\ntags:\n- bitvit\n- bhvit\n- binary\n"
    assert card.startswith(f"---\n{front}- image-classification\n---\n\n# digits\n")
    facts = summarize(tiny)
    size = facts.config.image_size
    for fact in (
        f"| parameters | {facts.binary_weights:,} of 1 bit, {facts.float_parameters:,} float32 |",
        f"| input | {size} x {size} pixels, RGB |",
        f"| classes | {facts.config.num_classes}: ",
        f"| file | `model.safetensors`, {tiny.stat().st_size:,} bytes |",
        f"| sha256 | `{hashlib.sha256(tiny.read_bytes()).hexdigest()}` |",
        '\nimport bitvit\nclassify = bitvit.Classifier("hf://me/digits")\nprint(classify("photo.jpg"))\n',
        "\nbitvit classify hf://me/digits photo.jpg\n",
    ):
        assert fact in card


def test_license_and_branch_only_if_given(tiny: Path) -> None:
    assert "license" not in prepare(tiny, "me/digits").card
    card = prepare(tiny, "me/digits", license="cc-by-4.0", branch="my/branch").card
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name")
    assert 'bitvit.Classifier("hf://me/digits@my%2Fbranch")' in card
    for license in ("MIT License", "mit\ntags: [a]", ""):
        with pytest.raises(HubError, match="is no identifier of a licence; expected one such as mit or"):
            prepare(tiny, "me/digits", license=license)


def test_class_names_are_no_markup(tiny: Path, tmp_path: Path) -> None:
    file = load_model_file(tiny)
    labels = ["a | b", "<script>", "two\nlines", *(f"class {n}" for n in range(3, file.config.num_classes))]
    save_model_file(
        tmp_path / "model.safetensors",
        {name: np.asarray(tensor) for name, tensor in file.tensors.items()},
        config=file.config,
        preprocessing=file.preprocessing,
        labels=tuple(labels[: file.config.num_classes]),
        source_sha256=file.source_sha256,
    )
    card = prepare(tmp_path / "model.safetensors", "me/digits").card
    assert f"| classes | {file.config.num_classes}: a \\| b, \\<script\\>, two lines" in card


def test_what_cannot_be_published(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"PK\x03\x04 data.pkl")
    with pytest.raises(ModelFileError, match=r"checkpoint.pth: is a training checkpoint, expected a packed model"):
        prepare(tmp_path / "checkpoint.pth", "me/digits")
    with pytest.raises(HubError, match=r"no.md: no such file"):
        prepare(tiny, "me/digits", card=tmp_path / "no.md")
    with pytest.raises(HubError, match="--license: belongs into the front matter of your own --card"):
        prepare(tiny, "me/digits", card=tmp_path / "no.md", license="mit")
    with pytest.raises(HubError, match="'digits': 'digits' is no name of an owner or a repository"):
        prepare(tiny, "digits")

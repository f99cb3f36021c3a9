"""The format before PyTorch 1.6."""

from pathlib import Path

import pytest

from bitvit.checkpoint import read_checkpoint
from tests.support.checkpoints import FIVE, assert_same, refuse, write_legacy
from tools.fuzz.pickles import MAGIC, Raw, build, call, emit, glob, pickled, storage, tensor


def test_whole_modules_of_the_legacy_format_are_named(tmp_path: Path) -> None:
    """A class comes with its source code, which is text; an object of it may also lie beside the weights."""
    source = Raw(emit(("module", glob("torch.nn.modules.loss", "CrossEntropyLoss"), "loss.py", "class ...")) + b"Q")
    loss = build(Raw(source.code + b")\x81"), {"_modules": {}, "_parameters": {}})
    refuse(write_legacy(tmp_path / "t.pth", loss, {}), "a whole pickled nn.Module", "torch.load(")
    beside = {"model": {"w": tensor("0", (5,))}, "criterion": loss}
    assert_same(read_checkpoint(write_legacy(tmp_path / "t.pth", beside, {"0": FIVE})).state, {"w": FIVE})
    nameless = Raw(emit(("module", 0, "loss.py", "class ...")) + b"Q")
    refuse(write_legacy(tmp_path / "t.pth", nameless, {}), "describes no storage")


def test_truncated_legacy_file(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE})
    whole = path.read_bytes()
    for cut, problem in ((2, "truncated: "), (25, "lie outside the file"), (40, "malformed or truncated pickle")):
        path.write_bytes(whole[:-cut])
        refuse(path, problem, "download the file again")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (5, "the list of storages does not fit"),
        (["1"], "the list of storages does not fit"),
        ([0], "the list of storages does not fit"),
        ([], "no storage '0' of 20 bytes"),
    ],
)
def test_legacy_storage_lists_that_do_not_fit(tmp_path: Path, keys: object, problem: str) -> None:
    refuse(write_legacy(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE}, keys), problem)


def test_legacy_element_counts_that_do_not_fit(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "t.pth", {"w": tensor("0", (4,))}, {"0": FIVE})
    refuse(path, "storage '0' has 5 elements, expected 4")


def test_legacy_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(MAGIC + pickled(1002) + pickled({}))
    refuse(tmp_path / "t.pth", "legacy format version 1002, expected 1001")


def test_legacy_without_view_metadata_of_its_own(tmp_path: Path) -> None:
    """The sixth part of a legacy persistent id is None in all files since PyTorch 0.4."""
    base, hooks = storage("0", 5, "FloatStorage", None), call("collections", "OrderedDict")
    value = {"w": call("torch._utils", "_rebuild_tensor_v2", base, 0, (5,), (1,), False, hooks)}
    assert_same(read_checkpoint(write_legacy(tmp_path / "t.pth", value, {"0": FIVE})).state, {"w": FIVE})

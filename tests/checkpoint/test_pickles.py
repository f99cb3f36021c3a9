"""The inert pickle machine: attacks, malformed pickles, bounded work."""

import io
import os
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitvit.checkpoint import pickles, read_checkpoint, torchzip
from bitvit.errors import BitvitError, CheckpointError
from tests.support.checkpoints import FIVE, read_zip, readable, refuse, write_legacy, write_zip
from tools.fuzz.pickles import MAGIC, Raw, attacks, call, glob, namespace, tensor, text

ATTACKS = list(attacks("x"))


@pytest.mark.parametrize("place", ["top", "args", "optimizer", "state", "key", "legacy", "legacy header"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_and_nothing_runs(tmp_path: Path, name: str, place: str) -> None:
    canary = tmp_path / "canary"
    payload = Raw(attacks(str(canary))[name])
    good = {"w": tensor("0", (5,))}
    value: object = {
        "top": payload,
        "args": {"model": good, "args": namespace(x=payload)},
        "optimizer": {"model": good, "optimizer": {"state": [payload]}},
        "state": {"model": {**good, "v": payload}},
        "key": {"model": good, payload: 1},
    }.get(place, {"model": good, "x": payload})
    path = tmp_path / "t.pth"
    if place == "legacy header":
        path.write_bytes(MAGIC[:-1] + b"0" + payload.code + b".")
    else:
        (write_legacy if place == "legacy" else write_zip)(path, value, {"0": FIVE})
    refuse(path, "the pickle asks for", "at byte", "nothing was executed", "torch.save({'model': model.state_dict(), ")
    assert not canary.exists()


@pytest.mark.skipif(os.name != "posix", reason="the attacks use a POSIX shell")
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_live(tmp_path: Path, name: str) -> None:
    """The pickles above do run their command where they are unpickled: refusing them means something."""
    canary = tmp_path / "canary"
    code = b"\x80\x04" + attacks(str(canary))[name] + b"."
    script = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", script], input=code, check=False, stderr=subprocess.DEVNULL)
    assert canary.exists()


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        (b"ctorch.storage\n_load_from_bytes\n(C\x00tR", "'torch.storage._load_from_bytes'"),
        (b"ctorch\nload\n(" + text("x") + b"tR", "'torch.load'"),
        (b"ctorch.hub\nload\n(" + text("x") + b"tR", "'torch.hub.load'"),
        (b"ctorch.jit\nload\n)R", "'torch.jit.load'"),
        (b"cnumpy\nload\n(" + text("x") + b"tR", "'numpy.load'"),
        (b"ccollections\nOrderedDict.fromkeys\n)R", "'collections.OrderedDict.fromkeys'"),
        (b"ccollections\nnamedtuple\n)R", "'collections.namedtuple'"),
        (b"cbuiltins\n__import__\n(" + text("os") + b"tR", "'builtins.__import__'"),
        (b"csubprocess\nPopen\n)\x81", "'subprocess.Popen'"),
        (b"c__main__\nmake_model\n)\x81", "'__main__.make_model'"),
        (b"\x82\x01", "the opcode EXT1 (1)"),
        (b"\x83\x01\x00", "the opcode EXT2 (1)"),
        (b"\x84\x01\x00\x00\x00", "the opcode EXT4 (1)"),
        (b"(ios\nsystem\n", "the opcode INST ('os system')"),
        (b"(cargparse\nNamespace\no", "the opcode OBJ"),
        (b"P0\n", "the opcode PERSID"),
        (b"\x97", "the opcode NEXT_BUFFER"),
        (b"K\x012", "the opcode DUP"),
        (b"K\x01)R", "a call of 1"),
        (text("os.system") + b")R", "a call of 'os.system'"),
        (b"ctorch\nFloatStorage\n)R", "a call of <torch FloatStorage>"),
        (b"ctorch\nTensor\n)\x81", "a call of <torch Tensor>"),
        (tensor("0", (5,)).code + b")R", "a call of <tensor>"),
        (b"ccollections\nOrderedDict\n)}(" + text("a") + b"K\x01u\x92", "a call of <collections OrderedDict>"),
        (b"cargparse\nNamespace\n}b", "setting the attributes of <argparse Namespace>"),
        (tensor("0", (5,)).code + b"}b", "setting the attributes of <tensor>"),
        (b"K\x01}b", "setting the attributes of 1"),
        (b"cbuiltins\ngetattr\n(cbuiltins\ndict\n" + text("fromkeys") + b"tR)R", "a call of <builtins.dict.fromkeys>"),
        (b"cdatetime\ndatetime\n)R)R", "a call of <datetime.datetime>"),
    ],
)
def test_gadgets_are_refused_by_name(tmp_path: Path, payload: bytes, asked: str) -> None:
    path = write_zip(tmp_path / "t.pth", {"model": {"w": tensor("0", (5,))}, "x": Raw(payload)}, {"0": FIVE})
    refuse(path, f"asks for {asked}" if asked[0] != "'" else f"asks for the global {asked}", "nothing was executed")


def test_unknown_tensors_are_called_so(tmp_path: Path) -> None:
    payload = Raw(b"ctorch._utils\n_rebuild_strange_tensor\n)R")
    path = write_zip(tmp_path / "t.pth", {"model": {"w": payload}}, {})
    refuse(
        path, "the global 'torch._utils._rebuild_strange_tensor'", ": it holds a kind of tensor that no BHViT has; only"
    )


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (
            call("torch._tensor", "_rebuild_from_type_v2", glob("_codecs", "encode"), 0, ("a", "latin1"), 0),
            "rebuilt by",
        ),
        (call("torch._tensor", "_rebuild_from_type_v2", "os.system", 0, (), 0), "rebuilt by 'os.system'"),
        (call("_codecs", "encode", "a", "zlib"), "_codecs.encode of 'a' to 'zlib'"),
        (
            call("_codecs", "encode", Raw(b"\x96" + struct.pack("<Q", 1) + b"a"), "latin1"),
            "_codecs.encode of <bytearray>",
        ),
        (call("collections", "OrderedDict", "abc"), "'abc' in place of a container"),
        (call("collections", "OrderedDict", [1]), "cannot unpack"),
        (call("builtins", "set", 5), "5 in place of a container"),
        (call("copyreg", "_reconstructor", glob("builtins", "dict")), "an object of <builtins dict>, which is not a"),
        (Raw(b"ccollections\nOrderedDict\n]R"), "in place of arguments"),
        (Raw(b"h\x09"), "memo slot 9 is empty"),
        (Raw(b"K\x01K\x02\x93"), "expected str instance"),
        (Raw(b"(K\x01R"), "behind the last mark"),
        (Raw(b"t" * 5), "pop from empty list"),
        (Raw(b"K\x01K\x02a"), "appended to 1"),
        (Raw(b"K\x01K\x02K\x03s"), "put into 1"),
        (Raw(b"}(K\x01u"), "1 keys and values"),
        (Raw(b"](K\x01\x90"), "added to <list>"),
        (Raw(b"\x8b" + struct.pack("<i", 200) + b"\x7f" * 200), "an integer of 1599 bits"),
        (Raw(b"\xff"), "unknown"),
        (Raw(b"S'\\q'\n"), "escape"),
    ],
)
def test_malformed_pickles_are_refused(tmp_path: Path, payload: Raw, problem: str) -> None:
    path = write_zip(tmp_path / "t.pth", {"model": {"w": tensor("0", (5,))}, "x": payload}, {"0": FIVE})
    refuse(path, "malformed or truncated pickle at byte", problem, "download the file again")


def test_opcodes_of_all_protocols_have_been_thought_of() -> None:
    """A new protocol's opcodes are refused until someone looks at them."""
    handled = pickles.LITERALS | pickles.CONSTANTS.keys() | pickles.EMPTIES.keys()
    refused = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER", "DUP", "LIST", "DICT"}
    assert not handled & refused
    for name in {opcode.name for opcode in pickletools.opcodes} & refused:
        with pytest.raises(CheckpointError, match=f"the opcode {name} "):
            pickles.InertPickle(io.BytesIO()).step(name, None)


@pytest.mark.parametrize("first", ["models.bhvit Classifier", "torch.nn.modules.container Sequential"])
def test_whole_modules_are_named(tmp_path: Path, first: str) -> None:
    linear = b"ctorch.nn.modules.linear\nLinear\n)\x81"
    parts = text("_modules") + linear + text("_parameters") + b"}"
    module = Raw("c{}\n{}\n".format(*first.split()).encode() + b")\x81}(" + parts + b"ub")
    function = Raw(module.code[:-2] + text("act") + glob("torch.nn.functional", "relu").code + b"ub")
    named = first.replace(" ", ".")
    for value, place in ((module, "c"), ({"net": module}, "c['net']")):
        path = write_zip(tmp_path / "t.pth", value, {})
        line = f"'model': {place}.state_dict(), "
        refuse(path, f"holds <{named}>, a whole pickled nn.Module, expected a state dict", line)
    refuse(
        write_zip(tmp_path / "t.pth", function, {}),
        *("'torch.nn.functional.relu'", "holds a whole pickled nn.Module", "nothing was executed"),
    )


def test_deep_nesting_costs_no_recursion(tmp_path: Path) -> None:
    """Neither building nor hashing nor freeing it: as a value, as a key, as the whole."""
    deep = Raw(b")" + b"\x85" * 100_000)
    value = {"model": {"w": tensor("0", (5,))}, "args": namespace(deep=deep), deep: deep}
    found = readable(read_zip(tmp_path, value, {"0": FIVE}).args)
    inner, depth = found["deep"], 0
    while isinstance(inner, dict):
        inner, depth = inner["0"], depth + 1
    assert (inner, depth) == ("<tuple>", 40)
    refuse(write_zip(tmp_path / "t.pth", deep, {}), "holds <tuple>, expected a state dict")


def test_shared_structures_do_not_blow_up(tmp_path: Path) -> None:
    """Forty lists, each twice the one before: 2^40 leaves in 200 bytes."""
    steps = [b"](h%ch%ceq%c0" % (k, k, k + 1) for k in range(40)]
    lists = Raw(b"]q\x000" + b"".join(steps) + b"h%c" % 40)
    value = {"model": {"w": tensor("0", (5,))}, "args": namespace(lists=lists)}
    found = repr(readable(read_zip(tmp_path, value, {"0": FIVE}).args))
    assert found.count("<list>") < 20_000


@pytest.mark.parametrize(
    ("shared", "copy"),
    [
        (
            b"}(" + b"".join(b"M" + struct.pack("<H", key) + b"N" for key in range(1000)) + b"u",
            b"ccollections\nOrderedDict\n",
        ),
        (b"](" + b"N" * 1000 + b"e", b"cbuiltins\nlist\n"),
        (text("a" * 32_000), b"cpathlib\nPosixPath\n"),
    ],
)
def test_copies_of_shared_containers_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bytes, copy: bytes
) -> None:
    monkeypatch.setattr(pickles, "MAX_WORK", 20_000)
    copies = (copy + b"h\x01\x85R") * 100
    payload = Raw(b"](" + shared + b"q\x01" + copies + b"e")
    refuse(write_zip(tmp_path / "t.pth", {"x": payload}, {}), "takes more than 20000 steps")


def test_long_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "t.pth", {"x": [1] * 1000}, {})
    monkeypatch.setattr(pickles, "MAX_WORK", 900)
    refuse(path, "takes more than 900 steps")
    monkeypatch.setattr(torchzip, "MAX_PICKLE", 900)
    refuse(path, "data.pkl has", "expected at most 900")


def test_huge_claims_allocate_nothing(tmp_path: Path) -> None:
    huge = b"\x8e" + struct.pack("<Q", 1 << 62)  # BINBYTES8
    refuse(write_zip(tmp_path / "t.pth", {"x": Raw(huge)}, {}), "malformed or truncated pickle", "4611686018427387904")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.binary(max_size=60), tail=st.booleans())
def test_random_pickles_are_an_error_of_ours_or_harmless(tmp_path: Path, code: bytes, tail: bool) -> None:
    path = write_zip(tmp_path / "t.pth", b"\x80\x02" + code + b"." * tail, {"0": FIVE})
    try:
        read_checkpoint(path)
    except BitvitError as error:
        assert str(path) in str(error)  # noqa: PT017

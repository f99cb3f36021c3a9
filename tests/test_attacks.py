"""Files made to exhaust or deceive their reader. Each is refused by name, in bounded time and memory.

What a pickle may not ask for is in checkpoint/test_pickles.py, what a header may not say in test_tensorfile.py, and
what nobody has thought of is left to tools/fuzz.
"""

import itertools
import json
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.claims import read_claims
from bitvit.checkpoint.inert import Instance
from bitvit.checkpoint.options import options
from bitvit.config import Config
from bitvit.errors import CheckpointError, ConfigError, ModelFileError
from bitvit.modelfile import load_model_file, seal
from tests.support.checkpoints import readable
from tests.support.paths import ROOT
from tools.fuzz.pickles import MAGIC, Raw, build, call, emit, glob, namespace, pickled, tensor, text
from tools.fuzz.pth import Member, zip_bytes
from tools.fuzz.seeds import CONFIGS, write_packed

FIVE = np.arange(5, dtype=np.float32).tobytes()
GOOD = pickled({"w": tensor("0", (5,))})

READ = """
import json, sys, time
from pathlib import Path
from tools.fuzz.guard import limit_memory
import bitvit
from bitvit.checkpoint import read_checkpoint
from bitvit.errors import BitvitError
limit_memory()
for path in map(Path, sys.argv[1:]):
    begin = time.process_time()
    try:
        if path.suffix == ".packed":
            bitvit.load(path)
        else:
            read_checkpoint(path)
        found = "read"
    except BitvitError as error:
        found = str(error)
    print(json.dumps([path.name, time.process_time() - begin, found]))
"""


def refuse(path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    for part in (str(path), *parts):
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


def archive(path: Path, *members: Member, code: bytes = GOOD, end: dict[int, int] | None = None) -> Path:
    """A .pth whose first member is the pickle, and the second storage 0, unless others are given."""
    first = [Member(b"a/data.pkl", code), *(members or [Member(b"a/data/0", FIVE)])]
    path.write_bytes(zip_bytes(first, end or {}))
    return path


# -------------------------------------------------------------------------------------------- time and memory, bounded


def legacy(*codes: bytes) -> bytes:
    return MAGIC + b"".join(codes)


def repeated(code: bytes, size: int) -> bytes:
    """A pickle of `size` bytes that repeats opcodes and leaves one object."""
    return b"\x80\x02(" + code * ((size - 10) // len(code)) + b"t."


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", bytes(200 << 20))


def _directory(path: Path) -> None:
    """Half a million members of nothing, in 27 MB."""
    record = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(record + b"%08d" % k for k in range(500_000))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)


def _safetensors(header: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(struct.pack("<Q", len(header)) + header))


def _pth(code: bytes) -> Callable[[Path], None]:
    return lambda path: void(archive(path, code=code))


def _legacy(*codes: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(legacy(*codes)))


def void(_: object) -> None:
    return None


def _large_network(path: Path) -> None:
    """5 MB of weights for images of 2016 x 2016 in windows of one token: each of 15,876 windows attends to all, and
    layer norms see what comes of it before anything is summed."""
    config = CONFIGS[0].to_dict() | {"image_size": 2016, "norm": "layer"}
    write_packed(path, Config.from_dict(config))


def _deep_config(path: Path) -> None:
    """A network of 4,096 blocks of width 65,536, which the file has not."""
    write_packed(path, CONFIGS[0])
    data = path.read_bytes()
    fields = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["bitvit"])
    for name, value in {"depths": 1024, "hidden_sizes": 65536, "intermediate_sizes": 65536, "num_heads": 1}.items():
        fields["config"][name] = [value] * 4
    header = json.dumps({"__metadata__": {"bitvit": json.dumps(fields, sort_keys=True)}}).encode()
    path.write_bytes(seal(struct.pack("<Q", len(header)) + header))


MEGABYTE = 1 << 20
NOTHING = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
SYSTEM = pickled(1001) + pickled({})
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zip.pth": (_zip_bomb, "'a/data.pkl' is compressed"),
    "directory.pth": (_directory, "its directory has more than 4194304 bytes"),
    "sets.pth": (_pth(repeated(b"\x8f", 15 * MEGABYTE)), "takes more than 600000 steps"),
    "globals.pth": (_pth(repeated(b"cargparse\nNamespace\n", 15 * MEGABYTE)), "takes more than 600000 steps"),
    "objects.pth": (
        _pth(b"\x80\x02c__main__\nModel\nq\x010(" + b"h\x01)\x81" * MEGABYTE + b"t."), "takes more than 600000 steps"
    ),
    "names.pth": (
        _pth(
            b"\x80\x02" + text("A." * 12 + "A" * 270) + b"q\x01" + text("a") + b"q\x0200("
            + b"h\x02h\x01\x93)\x81" * MEGABYTE + b"t."
        ), "takes more than 600000 steps",
    ),
    "fields.pth": (
        _pth(b"\x80\x02c__main__\nModel\nq\x010(" + b"h\x01)\x81}X\1\0\0\0aNsb" * MEGABYTE + b"t."),
        "takes more than 600000 steps",
    ),
    "pickles.pth": (  # each of five pickles short enough
        _legacy(repeated(b"]", 500_000), repeated(b"]", 500_000)), "takes more than 600000 steps"
    ),
    "refused.pth": (_pth(b"\x80\x02cos\nsystem\n" + b"(" * (15 * MEGABYTE) + b"."), "asks for the global 'os.system'"),
    "long.pth": (_pth(repeated(b"N", 17 * MEGABYTE)), "expected at most 16777216"),
    "letters.pth": (_pth(pickled("a" * (15 * MEGABYTE) + "🦆")), "expected a state dict"),
    "number.pth": (_pth(b"\x80\x02I" + b"9" * MEGABYTE + b"\n."), "malformed or truncated pickle"),
    "bytes.pth": (
        _pth(b"\x80\x02\x8b" + struct.pack("<I", 4 * MEGABYTE) + b"\x7f" * (4 * MEGABYTE) + b"."), "an integer of"
    ),
    "encoded.pth": (
        _pth(b"\x80\x02" + text("a" * MEGABYTE) + b"q\x010(" + b"c_codecs\nencode\nh\x01X\x06\0\0\0latin1\x86R" * 99),
        "takes more than 600000 steps",
    ),
    "claim.pth": (_legacy(SYSTEM, GOOD, pickled(["0"]), struct.pack("<q", 1 << 62)), "storage '0' has 46116860184273"),
    "header.safetensors": (_safetensors(b"{" + b" " * (50 * MEGABYTE) + b"}"), "header of 52428802 bytes"),
    "lists.safetensors": (_safetensors(b'{"a":[' + b"[]," * MEGABYTE + b"[]]}"), "is not described by"),
    "numbers.safetensors": (_safetensors(b'{"a":[' + b"1.," * MEGABYTE + b"1]}"), "broken JSON"),
    "entries.safetensors": (
        _safetensors(b"{" + b",".join(b'"%d":' % k + NOTHING for k in range(70_000)) + b"}"), ""
    ),
    "header.packed": (_safetensors(b'{"__metadata__":{"bitvit":"' + b"[" * (50 * MEGABYTE)), "of 52428827 bytes"),
    "lists.packed": (
        _safetensors(b'{"__metadata__":{"bitvit":"[' + b"[]," * MEGABYTE + b'[]]"}}'), "broken metadata (not an object)"
    ),
    "network.packed": (_large_network, "GB of memory for one image (image_size 2016, window_size 1)"),
    "deep.packed": (_deep_config, "tensors missing"),
}  # fmt: skip


def test_bombs(tmp_path: Path) -> None:
    """In a process that may grow by 512 MB; slow machines and busy ones get five times the 2 s that are promised."""
    for name, (write, _) in BOMBS.items():
        write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(tmp_path / name) for name in BOMBS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {name: (seconds, message) for name, seconds, message in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == BOMBS.keys()
    for name, (_, part) in BOMBS.items():
        seconds, message = found[name]
        assert str(tmp_path / name) in message or not part, f"{name}: {message}"
        assert part in message, f"{name}: {message}"
        assert seconds < 10, f"{name} took {seconds} s"


# ------------------------------------------------------------------------------------------------ zip archives that lie


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": b"a/data/1"}, "storage '0' has no bytes"),
        ({"local": {10: 200}}, "not what the archive's directory says"),  # a name that is longer
        ({"local": {2: 1}}, "not what the archive's directory says"),  # encrypted
        ({"local": {2: 0x40}}, "not what the archive's directory says"),
        ({"local": {3: 8}}, "not what the archive's directory says"),  # deflated
        ({"central": {3: 0x1}}, "is encrypted"),
        ({"central": {3: 0x41}}, "is encrypted"),
        ({"central": {3: 0x2000}}, "is encrypted"),
        ({"central": {3: 0x20}}, "is encrypted or patched"),
        ({"central": {4: 8}}, "is compressed"),
        ({"central": {4: 99}}, "is compressed"),
        ({"central": {8: 10}}, "is compressed"),
        ({"central": {16: 0}}, "overlaps what follows it"),
        ({"central": {16: 20}}, "overlaps what follows it"),
        ({"central": {8: 60, 9: 60}}, "overlaps what follows it"),
        ({"central": {7: 1}}, "do not have the stored check sum"),
        ({"extra": struct.pack("<HHQ", 1, 8, 1 << 60), "central": {8: 0xFFFFFFFF, 9: 0xFFFFFFFF}}, "zip archive"),
        ({"extra": struct.pack("<HHQQ", 1, 16, 1 << 60, 1 << 60), "central": {8: 0xFFFFFFFF, 9: 0xFFFFFFFF}},
         "overlaps what follows it"),
        ({"extra": struct.pack("<HHQ", 1, 8, 1 << 63), "central": {16: 0xFFFFFFFF}}, "overlaps what follows it"),
    ],
)  # fmt: skip
def test_members_that_lie(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    member = Member(**{"name": b"a/data/0", "data": FIVE, **change})
    refuse(archive(tmp_path / "t.pth", member, Member(b"a/version", b"3")), problem)


def test_a_member_under_another_name(tmp_path: Path) -> None:
    """The directory calls it data/0, its own header data/9: readers of the two would differ."""
    path = archive(tmp_path / "t.pth")
    path.write_bytes(path.read_bytes().replace(b"a/data/0", b"a/data/9", 1))
    refuse(path, "'a/data/0' is not what the archive's directory says")


def test_a_storage_over_the_pickle(tmp_path: Path) -> None:
    """The whole archive as a storage, the pickle inside it."""
    inner = Member(b"a/data/0", FIVE, central={8: 70, 9: 70, 16: 0})
    refuse(archive(tmp_path / "t.pth", inner), "overlaps what follows it")


@pytest.mark.parametrize(
    "end", [{3: 1}, {4: 0}, {5: 0}, {5: 10**6}, {6: 0}, {6: 10**6}, {5: 2**32 - 1, 6: 2**32 - 1}, {1: 7}, {7: 500}]
)
def test_end_records_that_lie(tmp_path: Path, end: dict[int, int]) -> None:
    """Refused, or, where nobody needs the field, read as what it is."""
    path = archive(tmp_path / "t.pth", end=end)
    try:
        found = read_checkpoint(path).state
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert list(found) == ["w"]
        assert found["w"].tobytes() == FIVE


# ----------------------------------------------------------------------------------------------- objects that would act


def args_of(tmp_path: Path, value: object) -> object:
    content = {"model": {"w": tensor("0", (5,))}, "args": namespace(x=value)}
    args = read_checkpoint(archive(tmp_path / "t.pth", code=pickled(content))).args
    assert args is not None
    return args["x"]


def test_attributes_are_data(tmp_path: Path) -> None:
    """BUILD with names that would change what an object is."""
    fields = {"__class__": 1, "__dict__": {"a": 1}, "__reduce__": "os.system", "fields": [1], "__setstate__": None}
    content = {"model": {"w": tensor("0", (5,))}, "args": namespace(**fields)}
    args = read_checkpoint(archive(tmp_path / "t.pth", code=pickled(content))).args
    assert args == fields


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (b"]q\x00h\x00a", {"0": {}}),  # a list in itself
        (b"]q\x00h\x00\x85q\x01a", {"0": {"0": {}}}),
        (b"\x8fq\x00(h\x00\x90", "<set>"),
        (b"K\x01q\x000K\x02q\x000h\x00", 2),  # a memo slot used again
    ],
)
def test_what_contains_itself(tmp_path: Path, code: bytes, shown: object) -> None:
    assert readable(args_of(tmp_path, Raw(code))) == shown


@pytest.mark.parametrize("code", [b"}q\x00X\x01\0\0\0ah\x00s", b"cargparse\nNamespace\n)\x81q\x00}X\x01\0\0\0ah\x00sb"])
def test_dicts_that_contain_themselves_end(tmp_path: Path, code: bytes) -> None:
    assert args_of(tmp_path, Raw(code)) == {"a": {}}


def _partial(**arguments: object) -> Instance:
    return Instance("functools partial", unnamed=[(None, (), arguments, None)])


@pytest.mark.parametrize(
    "shared",
    [
        [{}] * 999 + ["x"],
        dict.fromkeys(range(100000), "x"),
        Instance("module Class", {f"f{number}": number for number in range(100_000)}),
        Instance("module Class", unnamed=[list(range(100_000))]),
        _partial(**{f"f{number}": number for number in range(100_000)}),
    ],
    ids=["list", "dict", "object", "without names", "partial"],
)
def test_options_that_are_met_again_and_again_cost_little(shared: object) -> None:
    start = time.process_time()
    for top in ({f"a{number}": shared for number in range(9000)}, {"model": [{"args": shared}] * 9000}):
        found, _ = options({"args": top, "meta": {"exp": top}})
        with pytest.raises(ConfigError, match="not known here"):
            read_claims(None, found)
    assert time.process_time() - start < 10


def test_options_that_refer_to_one_another_cost_little() -> None:
    """Lists and dicts that all hold one another, by names of networks and others."""
    things: list[Any] = [[], {}] * 40
    for number, thing in enumerate(things):
        others = things[number + 1 :]
        for name, other in zip(itertools.cycle(["model", "args", "x"]), others, strict=False):
            thing.append(other) if isinstance(thing, list) else thing.update({f"{name}{id(other)}": other, name: other})
    start = time.process_time()
    found, _ = options({"args": things, "config": {"all": things}, "x": things})
    with pytest.raises(ConfigError, match="not known here"):
        read_claims(None, found)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "state",
    [(None, {}), ({}, {"a": 1}), [("a", 1)], "ab", 5, {("a", "b"): 1}],
)
def test_states_of_other_shapes(tmp_path: Path, state: object) -> None:
    """Slots, pairs, text: data or an error, whatever they are."""
    path = archive(
        tmp_path / "t.pth", code=pickled({"model": {"w": tensor("0", (5,))}, "x": build(namespace(), state)})
    )
    try:
        assert list(read_checkpoint(path).state) == ["w"]
    except CheckpointError as error:
        assert "malformed or truncated pickle" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "value",
    [
        call("torch._utils", "_rebuild_parameter", call("posix", "system", "x")),
        call("torch._tensor", "_rebuild_from_type_v2", glob("posix", "system"), 0, ("x",), {}),
        call("collections", "defaultdict", glob("posix", "system")),
        call("collections", "OrderedDict", [("a", glob("builtins", "exec"))]),
        Raw(emit({"a": 1}) + glob("subprocess", "Popen").code + b"0"),
        Raw(b"(cposix\nsystem\n1N"),
        Raw(b"N" + text("posix") + text("system") + b"\x930"),
    ],
)
def test_a_global_is_refused_wherever_it_stands(tmp_path: Path, value: Raw) -> None:
    """Also as an argument, and where it would only be thrown away again."""
    path = archive(tmp_path / "t.pth", code=pickled({"model": {"w": tensor("0", (5,))}, "x": value}))
    refuse(path, "the pickle asks for the global", "nothing was executed")


def test_a_storage_shared_and_out_of_range(tmp_path: Path) -> None:
    """Two tensors over one storage, one of them beyond it; two storages of different types under one key."""
    beyond = pickled({"w": tensor("0", (5,)), "v": tensor("0", (3,), (1,), 3, count=5)})
    refuse(archive(tmp_path / "t.pth", code=beyond), "last element is number 5 of a storage of 5")
    wider = pickled({"w": tensor("0", (5,)), "v": tensor("0", (5,), kind="DoubleStorage")})
    refuse(archive(tmp_path / "t.pth", code=wider), "storage '0' has 20 bytes, expected 40")


# -------------------------------------------------------------------------------------------------------- packed models


def test_a_network_too_large_for_the_file(tmp_path: Path) -> None:
    """Without running it: a reader of the file alone is not concerned, whoever loads it to run is."""
    path = tmp_path / "m.safetensors"
    _large_network(path)
    assert load_model_file(path).config.image_size == 2016
    with pytest.raises(ModelFileError, match=r"m\.safetensors: needs \d+\.\d GB of memory for one image"):
        bitvit.load(path)


@pytest.mark.parametrize("value", [1e12, -1e12, 1e-40, 0.0])
def test_extreme_weights_neither_crash_nor_warn(tiny: Path, tmp_path: Path, value: float) -> None:
    """The largest numbers that a file may hold, in every float tensor: some answer, NaN if need be."""
    data = bytearray(tiny.read_bytes())
    for name, (begin, end) in float_places(data).items():
        if not name.endswith("quantizer"):
            data[begin:end] = np.full((end - begin) // 4, value, np.float32).tobytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(seal(bytes(data)))
    for threads in (1, 2):
        logits = bitvit.load(path, threads=threads)(np.ones((2, 3, 32, 32), np.float32))
        assert logits.shape == (2, 3)


def float_places(data: bytes | bytearray) -> dict[str, tuple[int, int]]:
    """Where the float tensors of a file are."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + size]))
    start = 8 + size
    return {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"
    }

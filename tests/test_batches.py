"""BatchClassifier: every kind of batch and of cell, against what Classifier says of the images one by one."""

import concurrent.futures
import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import bitvit
from bitvit.batches import BatchClassifier
from bitvit.errors import ImageError
from tests.support.colours import patch
from tests.support.tables import KINDS, Kind, needs

BLUE = patch(0, 0, 255)


def png(array: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


DATA = png(BLUE)
NAMES = ("label", "index", "score", "error")


@pytest.fixture(scope="module")
def classify(tiny: Path) -> BatchClassifier:
    return BatchClassifier(tiny)


@pytest.fixture(scope="module")
def best(tiny: Path) -> Callable[[Any], dict[str, Any]]:
    """best(image): what Classifier says, as a row of results."""
    classifier = bitvit.Classifier(tiny, threads=1)
    return lambda image: {**classifier(image, top_k=1)[0], "error": None}


# ---------------------------------------------------------------------------------------------------------- cells
GOOD = {
    "bytes": DATA, "bytearray": bytearray(DATA), "memoryview": memoryview(DATA), "array": BLUE, "grey": BLUE[:, :, 0],
    "PIL": Image.fromarray(BLUE), "struct": {"bytes": DATA, "path": None}, "named": {"bytes": DATA, "path": "b.png"},
    "lists": BLUE.tolist(), "lists of arrays": [list(row) for row in BLUE],
}  # fmt: skip
BAD = {
    "none": None, "nan": float("nan"), "empty": b"", "text": b"no image", "cut": DATA[:40], "number": 7,
    "no file": "nowhere.png", "neither": {"bytes": None, "path": None}, "floats": BLUE.astype(float), "dict": {"a": 1},
    "list of bytes": list(DATA), "ragged": [[1, 2], [3]], "too large": [[256, 0]], "no list": [],
}  # fmt: skip
CELLS = GOOD | BAD


def plain(cell: Any) -> Any:
    """As Classifier takes it."""
    if isinstance(cell, list):
        return np.array(cell, np.uint8)
    return cell["bytes"] if isinstance(cell, dict) else cell


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(CELLS)), max_size=20),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_rows_are_what_classifier_says_of_each(
    tiny: Path, kinds: list[str], top_k: int, threads: int, as_array: bool
) -> None:
    """In the same order, whatever the mix; and columns have one type and length whatever it is."""
    cells: Any = [CELLS[kind] for kind in kinds]
    if as_array:
        cells = np.empty(len(kinds), object)
        cells[:] = [CELLS[kind] for kind in kinds]
    classifier = bitvit.Classifier(tiny, threads=1)
    found = BatchClassifier(tiny, top_k=top_k, threads=threads)({"id": list(range(len(kinds))), "image": cells})
    assert found["id"] == list(range(len(kinds)))
    assert list(found) == ["id", *NAMES]
    for number, kind in enumerate(kinds):
        row = {name: found[name][number] for name in NAMES}
        if kind in BAD:
            assert row["error"]
            assert not row["error"].startswith("image ")  # its place in the batch, of use to nobody
            continue
        expected = classifier(plain(CELLS[kind]), top_k=top_k)
        columns = [[prediction[name] for prediction in expected] for name in ("label", "index", "score")]
        values = columns if top_k > 1 else [column[0] for column in columns]
        for name, value in zip(NAMES, values, strict=False):
            assert np.array_equal(row[name], value)
        assert not row["error"]
    if as_array:
        assert [found[name].dtype.kind for name in NAMES] == ["U", "i", "f", "U"]
        shape = (len(kinds), top_k) if top_k > 1 else (len(kinds),)
        assert [found[name].shape for name in NAMES] == [shape, shape, shape, (len(kinds),)]


def test_what_is_told_of_bad_cells(classify: BatchClassifier, tmp_path: Path) -> None:
    found = classify({"image": list(BAD.values())})
    told = dict(zip(BAD, found["error"], strict=True))
    assert told["none"] == told["nan"] == told["neither"] == "no image: the cell is empty"
    assert told["text"].startswith("8 bytes of data: not an image that can be read")
    assert told["no file"] == "nowhere.png: no such file; check the path"
    assert told["number"].startswith("image: is of type int, expected a path")
    assert told["dict"].startswith("image: is of type dict, expected a path")
    assert told["ragged"].startswith("image: is of type list, expected a path")
    assert told["too large"].startswith("image: array int64 (1, 2), expected uint8 with values 0 to 255")
    assert found["label"] == found["index"] == found["score"] == [None] * len(BAD)
    path = tmp_path / "b.png"
    path.write_bytes(DATA)
    assert classify({"image": [str(path), {"bytes": None, "path": str(path)}, path]})["error"] == [None] * 3


def test_nuls_at_the_end_of_a_file_are_not_lost(classify: BatchClassifier) -> None:
    """An array of NumPy's type S drops them from each item, and a black BMP has hardly anything else."""
    file = io.BytesIO()
    Image.fromarray(patch(0, 0, 0)).save(file, "BMP")
    column = np.array([file.getvalue(), b"", DATA])
    assert column.dtype.kind == "S"
    assert len(column[0]) < len(file.getvalue())
    found = classify({"image": column})["error"]
    assert [bool(error) for error in found] == [False, True, False]
    assert found[1] == "0 bytes of data: is empty; copy or download the image again"


# -------------------------------------------------------------------------------------------------- kinds of batches
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("top_k", [1, 2])
def test_every_kind_of_batch_gives_its_own_kind_and_types_that_do_not_depend_on_the_cells(
    kind: Kind, top_k: int, tiny: Path, best: Callable[[Any], dict[str, Any]]
) -> None:
    needs(kind)
    classify = BatchClassifier(tiny, top_k=top_k)
    mixes: tuple[list[bytes | None], ...] = ([DATA, None, b"bad", DATA], [DATA], [None, b"bad"], [])
    types = []
    for cells in mixes:
        batch = kind.make({"path": [f"{k}.png" for k in range(len(cells))], "image": cells, "n": [9] * len(cells)})
        found = classify(batch)
        assert type(found) is type(batch)
        rows = kind.rows(found)
        assert [list(row) for row in rows] == [["path", "n", *NAMES]] * len(cells)
        assert [row["path"] for row in rows] == [f"{k}.png" for k in range(len(cells))]
        for cell, row in zip(cells, rows, strict=True):
            if cell is DATA:
                first = {name: row[name] if top_k == 1 or name == "error" else row[name][0] for name in NAMES}
                assert first == best(BLUE)
            else:
                assert [row[name] for name in NAMES[:3]] == [None] * 3
                assert row["error"].startswith(f"{row['path']}: ")
        types.append(kind.types(found)[-4:])
        kept = BatchClassifier(tiny, drop_image=False, prefix="bv_")(batch)
        assert kind.types(kept)[: len(kind.types(batch))] == kind.types(batch)
        assert [name for name, _ in kind.types(kept)][-4:] == [f"bv_{name}" for name in NAMES]
    assert all(found == types[0] for found in types)
    assert "null" not in str(types)


def test_an_iterator_of_batches_gives_an_iterator(classify: BatchClassifier) -> None:
    taken = []

    def batches() -> Any:
        for number in range(3):
            taken.append(number)
            yield {"image": [DATA] * number}

    answers = classify(batches())
    assert len(next(answers)["label"]) == 0
    assert taken == [0]
    assert [len(answer["label"]) for answer in answers] == [1, 2]


def test_a_column_alone(tiny: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    classify = BatchClassifier(tiny, prefix="my_")
    whole = classify.structs(arrow.chunked_array([[DATA, None], [b"bad"]]), arrow.array(["a", "b", None]))
    assert whole.type == classify.struct
    assert [row["my_error"] and row["my_error"].partition(":")[0] for row in whole.to_pylist()] == [
        None, "b", "3 bytes of data",
    ]  # fmt: skip
    assert classify.structs([]).type == classify.structs([None]).type == classify.struct
    assert classify.schema.types == [arrow.string(), arrow.int64(), arrow.float64(), arrow.string()]
    listed = BatchClassifier(tiny, top_k=2)
    assert listed.structs([DATA]).type == listed.struct


def test_tensors_of_arrow(classify: BatchClassifier, best: Callable[[Any], dict[str, Any]]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    tensors = arrow.FixedShapeTensorArray.from_numpy_ndarray(np.stack([BLUE, patch(255, 0, 0)]))
    found = classify(arrow.table({"image": tensors}))
    assert found.to_pylist() == [best(BLUE), best(patch(255, 0, 0))]


def test_lists_of_arrow(classify: BatchClassifier, best: Callable[[Any], dict[str, Any]]) -> None:
    """What becomes of an image where an engine knows no tensors. Of any type of integers, and of lists."""
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    red = patch(255, 0, 0)
    grey = BLUE[:, :, 0].tolist()
    fixed = arrow.list_(arrow.list_(arrow.list_(arrow.uint8(), 3)))
    for kind in (None, fixed, arrow.large_list(arrow.list_(arrow.list_(arrow.int32())))):
        cells = arrow.array([red.tolist(), None, BLUE.tolist()], kind)
        found = classify(arrow.table({"image": cells})).to_pylist()
        assert [found[0], found[2]] == [best(red), best(BLUE)]
        assert found[1]["error"] == "no image: the cell is empty"
    found = classify(arrow.table({"image": [grey, [[1, 2], [3]], [], [[256]], [None]]})).to_pylist()
    assert found[0] == best(BLUE[:, :, 0])
    assert [row["error"].partition(",")[0] for row in found[1:]] == [
        "image: is of type list", "image: array float64 (0", "image: array int64 (1", "image: is of type list",
    ]  # fmt: skip


def test_arrow_keeps_what_is_said_of_a_table(classify: BatchClassifier) -> None:
    """Such as which of its columns is the index of a DataFrame."""
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    table = arrow.table({"image": arrow.nulls(2)}).replace_schema_metadata({"a": "b"})
    assert classify(table).schema.metadata == {b"a": b"b"}
    with pytest.raises(ValueError, match=r"the batch has no column 'image', it has 'n'"):
        classify(arrow.table({"n": [1]}))


def test_what_spark_is_told(tiny: Path) -> None:
    class Field:
        def __init__(self, name: str) -> None:
            self.name, self.dataType = name, self

        def simpleString(self) -> str:  # noqa: N802
            return "binary"

    fields = [Field("image"), Field("a `b`")]
    new = "`label` string, `index` bigint, `score` double, `error` string"
    assert BatchClassifier(tiny).ddl() == new
    assert BatchClassifier(tiny).ddl(fields) == f"`a ``b``` binary, {new}"
    assert BatchClassifier(tiny, drop_image=False, prefix="x_", top_k=2).ddl(fields) == (
        "`image` binary, `a ``b``` binary, `x_label` array<string>, `x_index` array<bigint>, "
        "`x_score` array<double>, `x_error` string"
    )


# --------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ({"id": [7, 8], "image": [DATA, b"bad"]}, {}, r"^row 1 of 2 \(id 8\): 3 bytes of data: not an image"),
        ({"path": ["a", "b"], "image": [DATA, None]}, {}, r"^b: no image: the cell is empty$"),
        ({"key": ["a", "b"], "image": [DATA, None]}, {"name": "key"}, r"^b: no image: the cell is empty$"),
        ({"image": [DATA, {"bytes": b"bad", "path": "c.png"}]}, {}, r"^c.png: 3 bytes of data: not an image"),
        ({"image": [DATA, "nowhere.png"]}, {}, r"^nowhere.png: no such file; check the path$"),
        ({"image": [b""]}, {}, r"^row 0 of 1: 0 bytes of data: is empty"),
    ],
)
def test_raise_names_the_row(tiny: Path, batch: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        BatchClassifier(tiny, on_error="raise", **options)(batch)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("batch", "options", "error", "message"),
    [
        ({"img": []}, {}, ValueError, r"^the batch has no column 'image', it has 'img'; give image= its name$"),
        ({"image": []}, {"name": "key"}, ValueError, r"^the batch has no column 'key', it has 'image'; give name="),
        ({}, {}, ValueError, r"it has no columns"),
        ({"image": [], "label": []}, {}, ValueError, r"^the batch has a column 'label' already; give prefix="),
        ({"image": [], "n": [1]}, {}, ValueError, r"not of one length: \{'image': 0, 'n': 1\}"),
        ([DATA], {}, TypeError, r"^the batch is of type list, expected a dict of columns"),
        ({"image": []}, {"top_k": 0}, ValueError, r"^top_k is 0, expected a whole number of at least 1"),
        ({"image": []}, {"threads": True}, ValueError, r"^threads is True"),
        ({"image": []}, {"on_error": "skip"}, ValueError, r"^on_error is 'skip', expected 'record' or 'raise'"),
    ],
)
def test_mistakes(tiny: Path, batch: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchClassifier(tiny, **options)(batch)


# -------------------------------------------------------------------------------------------------------- processes
def test_it_may_travel(tiny: Path, classify: BatchClassifier) -> None:
    batch = {"image": [DATA, None]}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(classify, batch).result() == classify(batch)
    assert copy.deepcopy(classify)(batch) == classify(batch)
    assert len(pickle.dumps(BatchClassifier(tiny, by_path=True))) < 2000
    assert repr(classify) == f"<bitvit.BatchClassifier {str(tiny)!r}, column 'image', top 1>"


def test_numbers_of_numpy(tiny: Path) -> None:
    """Such as a configuration read with pandas has."""
    one, two = np.int64(1), np.int32(2)
    classify = BatchClassifier(tiny, top_k=two, threads=one, batch_size=two)
    assert [type(value) for value in (classify.top_k, classify.threads, classify.batch_size)] == [int] * 3
    assert classify({"image": [DATA]}) == BatchClassifier(tiny, top_k=2)({"image": [DATA]})


def test_what_dask_takes_it_for(tiny: Path, classify: BatchClassifier) -> None:
    token = classify.__dask_tokenize__()
    assert (
        token == BatchClassifier(tiny).__dask_tokenize__() == pickle.loads(pickle.dumps(classify)).__dask_tokenize__()
    )
    assert token != BatchClassifier(tiny, top_k=2).__dask_tokenize__()


def test_no_package_is_imported_for_nothing(tiny: Path) -> None:
    script = (
        "import sys, bitvit; classify = bitvit.BatchClassifier(sys.argv[1]); light = set(sys.modules); "
        "classify({'image': [None]}); print([m for m in ('numba', 'llvmlite', 'bitvit.model') if m in light], "
        "[m for m in ('pyarrow', 'pandas', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tiny)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] []\n", "")

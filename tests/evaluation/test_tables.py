"""Tables, and the answer to each image."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitvit.errors import BitvitError
from bitvit.evaluation.tables import Answer, answers, check_answers, write_answers, write_csv, write_json
from tests.support.evaluations import rows_of

CLASSES = [("red", 0), ("green", 3)]
LOGITS = np.array([[10, 0], [10, 4]], np.float32)


def answered(paths: tuple[str, ...] = ("image 0", "image 1")) -> list[Answer]:
    return list(answers("model", paths, np.array([0, 1]), LOGITS, CLASSES))


def test_answers() -> None:
    first, second = answered()
    assert (first.model, first.path, first.label, first.predicted) == ("model", "image 0", "red", "red")
    assert (first.correct, first.label_rank) == (True, 1)
    assert (second.label_index, second.predicted_index, second.correct, second.label_rank) == (3, 0, False, 2)
    powers = np.exp([10.0, 4.0])
    assert second.score == pytest.approx(powers[0] / powers.sum(), rel=1e-6)
    assert second.label_score == pytest.approx(powers[1] / powers.sum(), rel=1e-6)


def test_answers_by_the_thousand() -> None:
    count = 2500
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((count, 2)).astype(np.float32), rng.integers(0, 2, count)
    found = list(answers("model", [str(number) for number in range(count)], targets, logits, CLASSES))
    assert [answer.path for answer in found] == [str(number) for number in range(count)]
    assert [answer.correct for answer in found] == (logits.argmax(axis=1) == targets).tolist()


def test_answers_as_csv(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.csv", answered())
    first, second = rows_of(tmp_path / "answers.csv")
    assert (first["path"], first["label"], first["predicted"], first["correct"]) == ("image 0", "red", "red", "true")
    assert (second["label_index"], second["correct"], second["label_rank"]) == ("3", "false", "2")
    assert float(second["score"]) == answered()[1].score


def test_answers_as_json_lines(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", answered())
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert lines == [answer._asdict() for answer in answered()]


def test_answers_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    write_answers(tmp_path / "answers.parquet", answered(paths=("a", "b\udcff")))
    table = parquet.read_table(tmp_path / "answers.parquet").to_pydict()
    assert tuple(table) == Answer._fields
    assert table["correct"] == [True, False]
    assert table["path"] == ["a", r"b\udcff"]


def test_where_answers_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match=r"answers.xls: predictions are written as .csv, .jsonl, .parquet; end"):
        check_answers(tmp_path / "answers.xls")
    for name in ("no/answers.csv", "folder.csv"):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(BitvitError, match="cannot be written; name a file in an existing folder"):
            check_answers(tmp_path / name)


def test_names_of_any_bytes_are_written(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ["name"], [["a,b"], ["\udcff"]])
    assert (tmp_path / "table.csv").read_text() == 'name\n"a,b"\n\\udcff\n'
    write_json(tmp_path / "value.json", {"name": "\udcff"})
    assert json.loads((tmp_path / "value.json").read_text()) == {"name": "\udcff"}

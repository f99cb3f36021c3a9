"""bench.formats: a report as CSV and Markdown."""

import csv
import dataclasses
import io

import pytest

from bitvit import bench
from bitvit.bench import BenchReport, formats


def test_csv_has_every_field_of_the_results(report: BenchReport) -> None:
    stream = io.StringIO()
    bench.write_csv(report, stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert len(rows) == len(report.results) == 4
    for row, result in zip(rows, report.results, strict=True):
        assert row["model"] == report.model.name
        for name, value in dataclasses.asdict(result).items():
            assert row[name] == ("" if value is None else str(value))
    timm = {"infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size", "infer_gmacs"}
    assert timm | {"param_count"} <= rows[0].keys()
    assert 1e9 * float(rows[0]["infer_gmacs"]) == pytest.approx(report.model.binary_macs + report.model.float_macs)


def test_markdown_has_every_number_of_the_tables(report: BenchReport) -> None:
    text = bench.markdown(report)
    assert report.profile is not None
    for grid, words in (
        (formats.results_grid(report), ["mode"]),
        (formats.kinds_grid(report.profile), ["kind", "bound by"]),
        (formats.layers_grid(report.profile), ["layer", "kernel", "kind", "bound by"]),
    ):
        lines = formats.grid_markdown(grid).splitlines()
        assert "\n".join(lines) in text
        cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
        assert cells[0] == grid.columns
        assert cells[2:] == list(grid.rows)
        assert [mark == "---" for mark in cells[1]] == [place in grid.words for place in range(len(grid.columns))]
        assert [grid.columns[place] for place in sorted(grid.words)] == words
    assert "threading layer none: own threads" in text


def test_numbers_have_three_significant_digits() -> None:
    values = (0.0, 0.1362, 0.9996, 4.1, 9.994, 9.996, 86.3, 1234.0)
    assert [formats.digits(v) for v in values] == ["0.00", "0.136", "1.00", "4.10", "9.99", "10.0", "86.3", "1234"]

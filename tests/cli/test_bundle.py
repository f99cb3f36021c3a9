"""bitvit bundle: what it prints, and one line for a mistake."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bitvit.bundle.writing import BundleReport, LevelReport
from tests.support.command import run, words


def test_the_report_tells_sizes_and_what_the_processor_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def write(*arguments: object, **options: object) -> BundleReport:
        asked.extend([arguments, options])
        levels = (
            LevelReport("x86-64-v3", ("avx2", "fma"), 126_488, 4_571_520, 559_424),
            LevelReport("any", (), 1, 20, 3),
        )
        return BundleReport(tmp_path / "out", "x86_64-unknown-linux-gnu", levels, 8_523_776, 247_192)

    monkeypatch.setattr("bitvit.bundle.writing.write_bundle", write)
    options = ["--cpu", "x86-64-v3", "--cpu", "any", "--target", "x86_64-unknown-linux-gnu", "--python"]
    stdout, stderr = run("bundle", "model.safetensors", "-o", tmp_path / "out", *options)
    assert asked == [
        (Path("model.safetensors"), tmp_path / "out"),
        {"target": "x86_64-unknown-linux-gnu", "cpus": ["x86-64-v3", "any"], "python": True},
    ]
    first, *rest = stdout.splitlines()
    assert first == (
        f"{tmp_path / 'out'}: for x86_64-unknown-linux-gnu, weights 8,523,776 bytes, library for Python 247,192 bytes"
    )
    assert ["x86-64-v3", "126,488", "4,571,520", "559,424"] in [line.split() for line in rest]
    assert rest[-3:-1] == ["  x86-64-v3: needs avx2, fma", "  any: needs nothing special"]
    assert rest[-1] == "  next: build it with make or CMake; README.md in the folder says more"
    assert stderr == ""


def test_the_report_of_a_page_says_what_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = (LevelReport("bleeding-edge", ("simd128",), 1, 20, 3),)
    report = BundleReport(tmp_path / "out", "wasm32-unknown-unknown", levels, 8_523_776, None, 9_000_000)
    monkeypatch.setattr("bitvit.bundle.writing.write_bundle", lambda *_, **__: report)
    stdout, _ = run("bundle", "model.safetensors", "-o", tmp_path / "out", "--target", "wasm32")
    assert stdout.splitlines()[-1] == "  next: open index.html in a browser; README.md in the folder says more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "vax-dec-ultrix"], "Error: --target 'vax-dec-ultrix': LLVM does not know it (No available"),
        (["--target", "wasm32-wasi"], "bundles are made for 64-bit Linux on x86-64 and ARM"),
        (["--cpu", "x86-64-v33"], "LLVM knows no such processor of "),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: Sequence[str], message: str, tiny: Path, tmp_path: Path
) -> None:
    stdout, stderr = run("bundle", tiny, "-o", tmp_path / "out", *arguments, code=1)
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert message in stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, stderr = run("bundle", tiny, "-o", tmp_path, code=1)
    assert stderr == f"Error: {tmp_path}: is there already; remove it, or name another folder\n"


def test_the_folder_must_be_named(tiny: Path) -> None:
    _, stderr = run("bundle", tiny, code=2)
    assert "Missing option '--output' / '-o'" in words(stderr)

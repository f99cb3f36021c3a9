"""Which lines and branches of the readers inputs reach, measured by coverage.py in a process of its own.

    python -m tools.fuzz.reach TARGET INPUTS OUT [--least]

INPUTS: a folder of files. OUT: a file for coverage.py's JSON report; with --least, for the names of a few inputs that
reach all that the others do.
"""

import argparse
import contextlib
import importlib
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coverage  # type: ignore[import-not-found,unused-ignore]

from . import corpus
from .targets import KINDS, ROOT

__all__: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz.reach")
    parser.add_argument("target")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--least", action="store_true")
    options = parser.parse_args()
    kind, files = KINDS[options.target], sorted(options.inputs.iterdir())
    sources = [
        str(ROOT / (module.replace(".", "/") + end)) for module in kind.modules() for end in (".py", "/__init__.py")
    ]
    measure = coverage.Coverage(data_file=None, branch=True, include=sources, config_file=False)
    measure.start()
    with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-") as folder:
        _feed(measure, options.target, Path(folder), files)
    measure.stop()
    if options.least:
        options.out.write_text(
            json.dumps(
                corpus.least(
                    _arcs(measure, [file.name for file in files]), {file.name: file.stat().st_size for file in files}
                )
            )
        )
    else:
        with contextlib.redirect_stdout(None):
            measure.json_report(outfile=str(options.out))


def _feed(measure: Any, name: str, folder: Path, files: Sequence[Path]) -> None:
    """Nobody judges here: coverage.py itself does what a reader must not."""
    for module in KINDS[name].modules():
        importlib.import_module(module)
    target = KINDS[name].make(folder)
    for file in files:
        target.prepare(file.read_bytes())
        measure.switch_context(file.name)
        for reading in target.readings():
            with contextlib.suppress(Exception):
                target.use(reading())
        measure.switch_context("none")
    target.close()


def _arcs(measure: Any, names: Sequence[str]) -> dict[str, set[tuple[str, int, int]]]:
    """The steps from line to line that each input takes."""
    data, found = measure.get_data(), {}
    for name in names:
        data.set_query_contexts([f"^{re.escape(name)}$"])
        found[name] = {(file, *arc) for file in data.measured_files() for arc in data.arcs(file) or ()}
    return found


if __name__ == "__main__":
    main()

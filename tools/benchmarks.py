"""The tables of measurements on README.md and docs/benchmarks.md, written from the results in docs/benchmarks.json.

    python -m tools.benchmarks           # write the tables of both pages again
    python -m tools.benchmarks --check   # exit code 1 if a page does not have them as they are stored

A table stands between <!-- NAME:start --> and <!-- NAME:end -->. The results are those of other tools: compare_peers,
speed and bench_kernels store what they measure with --record docs/benchmarks.json.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitvit.errors import BitvitError
from bitvit.files import read_text
from tools import bench_kernels, bench_pipeline, compare_photos, speed
from tools.peers import report as peers
from tools.results import Results, read_results, write_text

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "docs" / "benchmarks.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")

_MARKED = re.compile(r"<!-- ([\w-]+):start -->\n(.*?)<!-- \1:end -->", re.DOTALL)


def summary_table(result: dict[str, Any]) -> str:
    """The README's: engines on one and the same checkpoint, their times, sizes and answers."""
    rows = [row for row in result["results"] if row["network"] == result["network"]]
    cells = list(dict.fromkeys((row["threads"], row["batch"]) for row in rows))
    lines = [f"| {result['network']} | {' | '.join(map(peers.heading, cells))} | model size | same answers |"]
    lines.append(f"|---|{'--:|' * len(cells)}--:|:-:|")
    for engine in dict.fromkeys(row["engine"] for row in rows):
        mark = "**" if engine == "bitvit" else ""
        times = [peers.shown(row) for row in rows if row["engine"] == engine]
        size = f"{result['model_bytes'][engine] / 1e6:.0f} MB"
        lines.append(f"| {' | '.join(f'{mark}{cell}{mark}' for cell in (engine, *times, size))} | yes |")
    environment = result["environment"]
    lines += [
        "",
        f"Median time of a call, and how many times bitvit's it is. {peers.machine(environment)};"
        f" {environment['date'][:10]}.",
    ]
    return "\n".join(lines)


def accuracy_table(result: dict[str, Any]) -> str:
    """The trained models: PyTorch's and the engine's top-1 on the whole test split, and the engine's other figures."""
    head = ["| model | data | PyTorch float32 | bitvit | same predictions |", "|---|---|--:|--:|--:|"]
    rows = [
        f"| `weights/{row['model']}.safetensors` | {row['data']} | {row['pytorch_top1']:.2f} % |"
        f" {row['bitvit_top1']:.2f} % | {row['same_predictions']:,} of {row['images']:,} |"
        for row in result["results"]
    ]
    more_head = [
        "| model | 95 % interval of top-1 | top-5 | loss | ROC-AUC | calibration error |",
        f"|---|{'--:|' * 5}",
    ]
    more = [
        f"| {row['model']} | {row['interval'][0]:.2f} to {row['interval'][1]:.2f} % | {row['top5']:.2f} % |"
        f" {row['loss']:.3f} | {row['roc_auc']:.3f} | {row['calibration_error']:.3f} |"
        for row in result["results"]
        if "interval" in row
    ]
    return "\n".join([*head, *rows, "", *more_head, *more])


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {  # marker -> name of the result, table
    "summary": ("peers", summary_table),
    "accuracy": ("accuracy", accuracy_table),
    "peers": ("peers", peers.table),
    "peers-tiny": ("peers-tiny", peers.table),
    "peers-photos": ("peers-photos", compare_photos.table),
    "speed": ("speed", speed.table),
    "cores": ("cores", speed.table),
    "kernels": ("kernels", bench_kernels.markdown),
    "pipeline": ("pipeline", bench_pipeline.table),
}


def with_tables(page: str, results: Results, where: str) -> str:
    """A page's text with the tables as they are stored. Raises BitvitError for markers that do not fit."""
    named = [name for name, _ in _MARKED.findall(page)]
    markers = re.findall(r"<!-- [\w-]+:(?:start|end) -->", page)
    unknown = sorted(name for name in set(named) if name not in TABLES or TABLES[name][0] not in results)
    if len(markers) != 2 * len(named) or len(set(named)) != len(named):
        raise BitvitError(f"{where}: found the markers {markers}; expected pairs of start and end, each name once")
    if unknown:
        raise BitvitError(f"{where}: no results are stored for {unknown}; there are {sorted(results)}")

    def section(match: re.Match[str]) -> str:
        stored, table = TABLES[match[1]]
        return f"<!-- {match[1]}:start -->\n{table(results[stored]).strip()}\n<!-- {match[1]}:end -->"

    return _MARKED.sub(section, page)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    options = parser.parse_args()
    stale = []
    try:
        results = read_results(STORED)
        for path in PAGES:
            page = read_text(path, BitvitError, "a page with tables")
            written = with_tables(page, results, path.name)
            if written != page:
                stale.append(path.name)
                if not options.check:
                    write_text(path, written)
    except BitvitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'out of date' if options.check else 'written'}: {', '.join(stale) or 'nothing'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

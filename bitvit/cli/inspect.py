"""bitvit inspect: what a packed model or a checkpoint consists of."""

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import printable, stdout_console
from bitvit.errors import BitvitError

if TYPE_CHECKING:
    from bitvit.summary import Row, Summary


class Format(str, Enum):
    table = "table"
    json = "json"


_TOTALS = ("binary_weights", "float_parameters", "binary_macs", "computed_binary_macs", "float_macs", "ops", "bytes")


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|CHECKPOINT", help="Packed model or training checkpoint.")],
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the training, if the checkpoint needs it.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="Format of the output.")] = Format.table,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether a packed model is unchanged since it was written.")
    ] = False,
) -> None:
    """Show the configuration of a model, and parameters, multiply-accumulates (MACs) and bytes of each layer.

    MACs are those of one image. Convolutions, linear layers and the two products of attention count, element-wise
    operations do not. OPs = float MACs + binary MACs / 64. In a packed model the bytes add up to the file's size.

    A packed model whose bytes do not match its checksum is refused. --check also fails for a model without a checksum,
    such as those of bitvit's first releases.
    """
    from bitvit.summary import summarize

    summary = summarize(path, config)
    if check:
        print(f"{printable(str(path))}: unchanged, its bytes match its checksum {_checked(summary)}")
    elif form is Format.json:
        print(json.dumps(_as_json(summary), indent=2))
    else:
        _print_facts(summary)
        _print_layers(summary)


def _checked(summary: "Summary") -> str:
    """The checksum, which `summarize` has compared with the file's bytes."""
    if not summary.packed:
        raise BitvitError(f"{summary.path}: --check: a checkpoint carries no checksum; only packed models do")
    if summary.checksum is None:
        raise BitvitError(
            f"{summary.path}: --check: carries no checksum, so it cannot be told whether it has changed; convert "
            "the checkpoint again to get one"
        )
    return summary.checksum


def _as_json(summary: "Summary") -> dict[str, object]:
    preprocessing = summary.preprocessing
    return {
        "path": str(summary.path),
        "kind": "packed model" if summary.packed else "checkpoint",
        "version": summary.version,
        "sha256": summary.sha256,
        "checksum": summary.checksum,
        "config": summary.config.to_dict(),
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "labels": None if summary.labels is None else list(summary.labels),
        "layers": [dataclasses.asdict(row) for row in summary.rows],
        "total": {name: getattr(summary, name) for name in _TOTALS},
    }


def _print_facts(summary: "Summary") -> None:
    kind = f"packed model, bitvit {summary.version}" if summary.packed else "training checkpoint"
    print(f"{printable(str(summary.path))}: {printable(kind)}")
    facts: dict[str, object] = {"checkpoint sha256": summary.sha256}
    if summary.packed:
        facts["checksum"] = summary.checksum or "none"
    facts |= summary.config.to_dict()
    if summary.preprocessing is not None:
        facts |= {name: value for name, value in summary.preprocessing.to_dict().items() if name != "image_size"}
    if summary.labels is not None:
        facts["labels"] = _shortened(summary.labels)
    for name, value in facts.items():
        print(f"  {name:20}{printable(str(value))}")
    print()


def _shortened(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:4]) + (f", ... ({len(labels)})" if len(labels) > 4 else "")


def _print_layers(summary: "Summary") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for name, total in (
        ("1-bit", summary.binary_weights),
        ("float", summary.float_parameters),
        ("binary MACs", summary.binary_macs),
        ("float MACs", summary.float_macs),
        ("bytes", sum(row.bytes for row in summary.rows)),
    ):
        table.add_column(name, f"{total:,}", justify="right", no_wrap=True)
    for row in summary.rows:
        table.add_row(*_cells(row))
    stdout_console().print(table)
    print(f"file: {summary.bytes:,} bytes   OPs = float MACs + binary MACs / 64 = {summary.ops / 1e6:,.1f} M")


def _cells(row: "Row") -> list[str]:
    numbers = (row.binary_weights, row.float_parameters, row.binary_macs, row.float_macs, row.bytes)
    return [row.name, row.type, " x ".join(map(str, row.shape)), *(f"{n:,}" if n else "" for n in numbers)]

"""bitvit inspect: what a packed model or a checkpoint consists of."""

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import IGNORE, printable, require_stdout
from bitvit.cli.tables import Table, print_lines, print_table
from bitvit.errors import BitvitError
from bitvit.files import is_file
from bitvit.hub import is_hub_name

if TYPE_CHECKING:
    from bitvit.hub.fetching import Fetched
    from bitvit.summary import Row, Summary


class Format(str, Enum):
    table = "table"
    json = "json"


_TOTALS = ("binary_weights", "float_parameters", "binary_macs", "computed_binary_macs", "float_macs", "ops", "bytes")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="MODEL|CHECKPOINT", help="Packed model or training checkpoint, or hf://owner/name."),
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the training, if the checkpoint needs it.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="NAME", help=IGNORE)] = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="Format of the output.")] = Format.table,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether a packed model is unchanged since it was written.")
    ] = False,
) -> None:
    """Show the configuration of a model, and parameters, multiply-accumulates (MACs) and bytes of each layer.

    MACs are those of one image. Convolutions, linear layers and the two products of attention count, element-wise
    operations do not. OPs = float MACs + binary MACs / 64. In a packed model the bytes add up to the file's size.

    MODEL may be of the Hugging Face Hub, such as hf://owner/name. Then commit and sha256 are shown too.

    A packed model whose bytes do not match its checksum is refused. --check also fails for a model without a checksum,
    such as those of bitvit's first releases; then stdout says nothing, and the exit code is 1.
    """
    from bitvit.summary import summarize

    fetched = None
    if is_hub_name(path):
        from bitvit.hub.fetching import fetch

        fetched = fetch(path)
        path = fetched.path
    if check:
        print(f"{printable(str(path))}: unchanged, its bytes match its checksum {_checked(path)}")
        return
    require_stdout()
    summary = summarize(path, config, ignore=ignore or ())
    if form is Format.json:
        print(json.dumps(_as_json(summary) | {"hub": _origin(fetched)}, indent=2))
    else:
        _print_facts(summary, _origin(fetched) or {})
        _print_layers(summary)


def _checked(path: Path) -> str:
    """The checksum, which was compared with the file's bytes."""
    from bitvit.modelfile import load_model_file
    from bitvit.summary import is_packed

    if is_file(path) and not is_packed(path):
        raise BitvitError(
            f"{path}: --check: is not a packed model, or its header is damaged; only packed models carry a checksum, a "
            "training checkpoint has none"
        )
    checksum = load_model_file(path).checksum
    if checksum is None:
        raise BitvitError(
            f"{path}: --check: carries no checksum, so it cannot be told whether it has changed; convert the "
            "checkpoint again to get one"
        )
    return checksum


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
        "notes": list(summary.notes),
        "labels": None if summary.labels is None else list(summary.labels),
        "layers": [dataclasses.asdict(row) for row in summary.rows],
        "total": {name: getattr(summary, name) for name in _TOTALS},
    }


def _origin(fetched: "Fetched | None") -> dict[str, str] | None:
    """Where on the Hub a file comes from."""
    if fetched is None:
        return None
    name = fetched.name
    return {
        "repository": name.repository,
        "revision": name.revision or "main",
        "commit": fetched.commit,
        "file": name.file or "",
        "sha256": fetched.sha256(),
    }


def _print_facts(summary: "Summary", origin: dict[str, str]) -> None:
    """origin: on the Hub, empty for a file of this machine."""
    kind = f"packed model, bitvit {summary.version}" if summary.packed else "training checkpoint"
    print_lines([f"{summary.path}: {kind}"])
    facts: dict[str, object] = {"file sha256" if name == "sha256" else name: fact for name, fact in origin.items()}
    facts["checkpoint sha256"] = summary.sha256
    if summary.packed:
        facts["checksum"] = summary.checksum or "none"
    facts |= summary.config.to_dict()
    if summary.preprocessing is not None:
        facts |= {name: value for name, value in summary.preprocessing.to_dict().items() if name != "image_size"}
    if summary.labels is not None:
        facts["labels"] = _shortened(summary.labels)
    notes = (f"  note: {note}" for note in summary.notes)
    print_lines([*(f"  {name:20}{value}" for name, value in facts.items()), *notes, ""])


def _shortened(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:4]) + (f", ... ({len(labels)})" if len(labels) > 4 else "")


def _print_layers(summary: "Summary") -> None:
    totals = (
        ("1-bit", summary.binary_weights),
        ("float", summary.float_parameters),
        ("binary MACs", summary.binary_macs),
        ("float MACs", summary.float_macs),
        ("bytes", sum(row.bytes for row in summary.rows)),
    )
    print_table(
        Table(
            columns=("layer", "type", "shape", *(name for name, _ in totals)),
            rows=[_cells(row) for row in summary.rows],
            words=frozenset({0, 1, 2}),
            total=("total", "", "", *(f"{number:,}" for _, number in totals)),
            paths=True,
        )
    )
    ops = f"OPs = float MACs + binary MACs / 64 = {summary.ops / 1e6:,.1f} M"
    print_lines(["", f"file: {summary.bytes:,} bytes   {ops}"])


def _cells(row: "Row") -> list[str]:
    numbers = (row.binary_weights, row.float_parameters, row.binary_macs, row.float_macs, row.bytes)
    return [row.name, row.type, " x ".join(map(str, row.shape)), *(f"{n:,}" if n else "" for n in numbers)]

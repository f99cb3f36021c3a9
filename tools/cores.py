"""What more cores bring: BHViT-small and -tiny on 1, 2, 4, 8 … threads, one image and 16 a call; in five minutes.

    python -m tools.cores [--seconds 10] [--record docs/benchmarks.json]

For an idle machine with more cores than the two of docs/benchmarks.md. The networks are made here, with random weights,
as time does not depend on them. It prints a table for docs/benchmarks.md; with --record,
`python -m tools.benchmarks` keeps it between the page's markers <!-- cores:start --> and <!-- cores:end -->.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bitvit.bench import measure
from bitvit.config import Config
from bitvit.errors import BitvitError
from bitvit.system import available_threads
from tools import speed
from tools.fuzz.seeds import write_packed
from tools.results import check_record, store

__all__ = ["NETWORKS", "counts", "main"]

DEPTHS = {"bhvit-small": (3, 4, 8, 4), "bhvit-tiny": (2, 2, 6, 2)}
NETWORKS = {
    name: Config(
        image_size=224, window_size=7, depths=depths, hidden_sizes=(64, 128, 256, 512),
        intermediate_sizes=(512, 1024, 1024, 2048), num_heads=(1, 1, 4, 8), num_classes=1000, norm="batch",
        downsampling="float", quantizer="levels", layer_scale=True, shift3=True, shift5=True,
    )
    for name, depths in DEPTHS.items()
}  # fmt: skip
BATCHES = (1, 16)


def counts(cores: int) -> list[int]:
    """1, 2, 4 … threads, and as many as there are cores."""
    return sorted({*(2**k for k in range(cores.bit_length()) if 2**k <= cores), cores})


def main(
    seconds: Annotated[float, typer.Option(help="for each row")] = 10.0,
    record: Annotated[Path | None, typer.Option(help="store the results in this file")] = None,
) -> None:
    """Time both networks on more and more threads."""
    try:
        check_record(record)
        with tempfile.TemporaryDirectory() as folder:
            reports = []
            for name, config in NETWORKS.items():
                path = Path(folder) / f"{name}.safetensors"
                write_packed(path, config)
                threads = counts(available_threads())
                amounts = {"batch_sizes": list(BATCHES), "threads": threads, "seconds": seconds}
                reports.append(measure(path, startup=False, **amounts))  # type: ignore[arg-type]
        found = speed.record(reports)
        print(speed.table(found))
        if record is not None:
            store(record, "cores", found)
    except BitvitError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)

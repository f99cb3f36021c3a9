"""bitvit classify on Parquet files: what it is given, what it says, and how it ends."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bitvit.classify import Classifier
from bitvit.cli.console import (
    SOME_FAILED,
    compiling_status,
    counting_bar,
    print_error,
    print_note,
    print_turned,
    stderr_console,
)
from bitvit.errors import BitvitError
from bitvit.files import is_file
from bitvit.messages import plural
from bitvit.modelsource import ModelSource
from bitvit.parquet import find_files, is_parquet
from bitvit.parquetjob import Done, Job, renamed

__all__ = ["classify_parquet"]


def classify_parquet(
    model: Path,
    places: Sequence[str],
    out: str | None,
    *,
    top_k: int,
    column: str | None,
    keep: Sequence[str],
    resume: bool,
    options: dict[str, Any],
) -> None:
    """Classify the rows of Parquet files into a folder. options: those of Classifier."""
    others = [place for place in places if not is_parquet(place)]
    if others:
        raise BitvitError(f"{others[0]}: is not Parquet, as others are; classify the two kinds one after the other")
    if out is None:
        raise BitvitError("Parquet files of images need --output FOLDER, which gets a file of predictions for each")
    if "://" not in out and is_file(out):
        raise BitvitError(f"{out}: is a file; name a folder, which gets a file of predictions for each of images")
    files = [file for place in places for file in find_files(place)]
    console = stderr_console()
    with compiling_status():
        classifier = Classifier(model, **options)
    job = Job(
        classifier=classifier, model=ModelSource.read(model, by_path=True).digest, files=files, out=out, top_k=top_k,
        column=column, keep=renamed(keep), resume=resume, failed=lambda reason: print_error(reason, console),
    )  # fmt: skip
    done: list[Done] = []
    with _keeping(done, len(files), out), counting_bar(console, len(files)) as advance:
        for one in job.run():
            done.append(one)
            advance()
    resumed = sum(one.resumed for one in done)
    if resume:
        print_note(f"{resumed:,} of {plural(len(files), 'file')} had been done before")
    rows, failed = sum(one.rows for one in done), sum(one.failed for one in done)
    print_turned(classifier.turned, rows)
    if failed:
        print_error(f"{failed} of {rows} images could not be read", console)
        raise SystemExit(SOME_FAILED)


@contextlib.contextmanager
def _keeping(done: Sequence[Done], total: int, out: str) -> Iterator[None]:
    """Say how a job that is stopped goes on."""
    try:
        yield
    except (KeyboardInterrupt, BitvitError) as problem:
        if not done:
            raise
        if isinstance(problem, BitvitError):
            print_error(str(problem))
        print_note(
            f"stopped after {len(done):,} of {plural(total, 'file')}, kept in {out}: the same command with --resume "
            "goes on"
        )
        raise SystemExit(1 if isinstance(problem, BitvitError) else 130) from None

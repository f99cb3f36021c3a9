"""Train a BHViT, or a teacher for one. Repeating a command resumes its run; SIGINT and SIGTERM save first.

python -m tools.train --data digits --config tools/train/configs/digits.json --out runs/digits
python -m tools.train --data folder --data-folder IMAGES --config ... --out ... --teacher TEACHER.safetensors
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

try:
    import torch
except ImportError:
    sys.exit(
        "error: training needs PyTorch: pip install --editable '.[train]' in the folder of the clone; without a GPU see"
        " tools/train/README.md first"
    )

from bitvit.errors import BitvitError
from bitvit.train import data, export, report
from bitvit.train.checkpoint import write_bytes
from bitvit.train.loop import Run
from bitvit.train.machine import FixedThreads, ThreadChooser, keep_memory
from bitvit.train.settings import read_settings
from bitvit.train.start import read_weights
from bitvit.train.teacher import load_teacher

from .sets import NAMES, read_source


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    keep_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        settings = read_settings(options.config, options.set)
        images = data.load(read_source(options.data, options.data_folder), options.data, settings.network.image_size)
        teacher = load_teacher(options.teacher, len(images.labels)) if options.teacher else None
        options.out.mkdir(parents=True, exist_ok=True)
        run = Run(
            settings,
            images,
            options.out,
            teacher=teacher,
            start=read_weights(options.start_from) if options.start_from else None,
            device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            threads=FixedThreads() if options.threads else ThreadChooser(torch.get_num_threads()),
            say=report.say,
            on_epoch=_write_log,
        )
        write_bytes(options.out / "settings.json", (json.dumps(settings.to_dict(), indent=1) + "\n").encode())
        run.train()
        result = export.export(run, _command(options))
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    report.say(f"done: {json.dumps(vars(result))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, choices=NAMES)
    parser.add_argument("--data-folder", type=Path, help="where the images are; digits needs none")
    parser.add_argument("--config", type=Path, required=True, help="settings, JSON; see tools/train/settings.py")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="change a setting, e.g. epochs=3")
    parser.add_argument("--teacher", type=Path, help="a teacher's model.safetensors, or a .pt2 of torch.export")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="begin with these weights, .pth or .safetensors; the number of classes may differ",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="default: one or all, whichever is faster at the time; a fixed number makes runs repeatable to the bit",
    )
    parser.add_argument("--device", default="", help="cpu or cuda; default: cuda where there is one")
    return parser


def _write_log(run: Run) -> None:
    report.write_log(run.folder / "log.csv", run.log)
    report.write_curves(run.folder / "curves.png", run.log)


def _command(options: argparse.Namespace) -> str:
    """How to repeat the run, without the folders of this machine."""
    config = Path("tools/train/configs") / options.config.name
    parts = [f"python -m tools.train --data {options.data} --config {config.as_posix()} --out runs/{options.data}"]
    parts += ["--data-folder DATA"] if options.data_folder else []
    parts += ["--teacher TEACHER"] if options.teacher else []
    parts += ["--start-from CHECKPOINT"] if options.start_from else []
    return " ".join(parts + [f"--set {shlex.quote(change)}" for change in options.set or []])


if __name__ == "__main__":
    sys.exit(main())

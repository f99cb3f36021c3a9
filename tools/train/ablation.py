"""What each part contributes: the same training without it, on the same data, seeds and budget.

    python -m tools.train.ablation --data cifar10 --data-folder DATA --teacher TEACHER.safetensors --out runs/ablation
    python -m tools.train.ablation --data cifar10 --data-folder DATA --set epochs=20 --out runs/regulariser \
        --only everything "without the oscillation regulariser" "with the regulariser from the start"

Without a teacher nothing is distilled. Resumable like a single run. Ends with a table on standard output and in
OUT/table.md.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bitvit.errors import BitvitError
from bitvit.train import data
from bitvit.train.checkpoint import write_bytes
from bitvit.train.loop import Run
from bitvit.train.machine import FixedThreads, ThreadChooser, keep_memory
from bitvit.train.report import say
from bitvit.train.settings import Settings, read_settings
from bitvit.train.teacher import load_teacher

from .sets import NAMES, read_source

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changed settings, changed network
    "everything": ({}, {}),
    "without shift residuals": ({}, {"shift3": False, "shift5": False}),
    "without the oscillation regulariser": ({"regulariser": 0.0}, {}),
    "with the regulariser in the last half": ({"regulariser_share": 0.5}, {}),
    "with the regulariser from the start": ({"regulariser_share": 1.0}, {}),
    "with single-level attention": ({}, {"attention_levels": 1}),
    "without distillation": ({"distillation": 0.0, "views": 0}, {}),
}


def variant(base: Settings, name: str, seed: int) -> Settings:
    """The settings of one row of the table."""
    changes, network = VARIANTS[name]
    return dataclasses.replace(base, seed=seed, network=dataclasses.replace(base.network, **network), **changes)


def table(results: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """Markdown: top-1 of each seed, their mean, and the share of weights that still flip at the end."""
    lines = [f"| variant | {' | '.join(f'seed {seed}' for seed in seeds)} | mean top-1 | flips at the end |"]
    lines.append("|---|" + "--:|" * (len(seeds) + 2))
    for name, rows in results.items():
        each = " | ".join(f"{row['top1']:.2f}" for row in rows)
        flips = 100 * mean(row["flips"] for row in rows)
        lines.append(f"| {name} | {each} | {mean(row['top1'] for row in rows):.2f} % | {flips:.2f} % |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", choices=NAMES)
    parser.add_argument("--data-folder", type=Path, help="where the images are; digits needs none")
    parser.add_argument(
        "--config", type=Path, default=Path(__file__).parent / "configs" / "ablation.json", help="settings, JSON"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="another value of a setting")
    parser.add_argument("--teacher", type=Path, help="a teacher's model.safetensors, or a .pt2")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="rows; default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument("--threads", type=int, default=0, help="default: one or all, whichever is faster at the time")
    options = parser.parse_args()
    keep_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = FixedThreads() if options.threads else ThreadChooser(torch.get_num_threads())
    try:
        base = read_settings(options.config, options.set)
        images = data.load(read_source(options.data, options.data_folder), options.data, base.network.image_size)
        teacher = load_teacher(options.teacher, len(images.labels)) if options.teacher else None
        results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        answers: dict[int, Any] = {}
        for seed in options.seeds:
            for name, rows in results.items():
                say(f"{name}, seed {seed}")
                settings = variant(base, name, seed)
                folder = options.out / f"{name.replace(' ', '-')}-{seed}"
                taught = teacher if settings.distillation else None
                run = Run(settings, images, folder, teacher=taught, threads=threads, say=say)
                if taught is not None:  # the images are the same for every variant, and so is what the teacher says
                    run.answers = answers.setdefault(seed, run.answers)
                run.train()
                rows.append(run.log[-1])
        text = table(results, options.seeds)
        write_bytes(options.out / "table.md", text.encode())
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

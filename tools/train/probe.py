"""How many images a second each network trains on: each in a process of its own, so that none can spoil the next."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bitvit.train.checkpoint import write_bytes
from bitvit.train.loop import build
from bitvit.train.report import say
from bitvit.train.settings import Settings

from .timed import Images, TimedRun

__all__ = ["measure", "probe"]

IMAGES = 4096  # random ones
CLASSES = 10
AFTER_COMPILING = 30.0  # seconds that compiling leaves for what comes after it
LEAST_SECONDS = 5.0  # below which nothing is begun


def measure(settings: Settings, teacher: Settings | None, device: str, *, compiled: bool, steps: int) -> dict[str, Any]:
    """Rate and memory of training steps on random images; with the passes of a teacher if there is one."""
    generator = torch.Generator().manual_seed(0)
    side, count = settings.network.image_size, max(IMAGES, settings.batch_size) if device == "cuda" else 64
    pixels = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8).to(device)
    labels = torch.arange(count, device=device) % CLASSES
    half = torch.full((3,), 0.5, device=device)
    taught = None if teacher is None else build(teacher, CLASSES).to(device).eval().requires_grad_(False)
    model = build(settings, CLASSES).to(device)
    run = TimedRun(settings, model, Images(pixels, labels, half, half), taught, _to_stderr)
    run.prepare()
    start = time.monotonic()
    if compiled:
        run.compile()
    run.rate(1)
    ready = time.monotonic() - start
    rate = run.rate(steps)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"images_per_second": round(rate), "seconds_to_first_step": round(ready, 1), "gib": round(memory, 1)}


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def probe(configs: list[Path], teacher: Path, keep: Path, seconds: float, device: str, batches: list[int]) -> None:
    """Measure every network in the time that there is, the important ones first, and keep what was found.

    KEEP/probe.json: for each configuration its rate at the first batch size, "eager" and, if that worked, "compiled".
    """
    end = time.monotonic() + seconds
    found: dict[str, dict[str, float]] = {}
    plan: list[tuple[Path, bool, int]] = []
    for config in configs:
        plan += [(config, True, batches[0]), (config, False, batches[0])]
    plan.insert(2, (teacher, False, batches[0]))
    plan += [(configs[0], compiled, batch) for batch in batches[1:] for compiled in (True, False)]
    for config, compiled, batch in plan:
        way = "compiled" if compiled else "eager"
        name = f"{config.stem}, {way}, batch {batch}"
        left = end - time.monotonic() - (AFTER_COMPILING if compiled else 0)
        if left < LEAST_SECONDS:
            say(f"{name}: no time left")
            continue
        command = [sys.executable, "-m", "tools.train.gpu", "measure", "--config", str(config), "--batch", str(batch)]
        command += [] if config == teacher else ["--teacher-config", str(teacher)]
        command += ["--device", device, *(["--compiled"] if compiled else [])]
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError) as problem:
            errors = getattr(problem, "stderr", None) or ""
            text = errors.decode() if isinstance(errors, bytes) else errors
            say(f"{name}: failed after {time.monotonic() - start:.0f} s, {type(problem).__name__}: {text[-1500:]}")
            continue
        notes = "; ".join(done.stderr.strip().splitlines()[-2:])
        say(f"{name}: {json.dumps(result)}, {time.monotonic() - start:.0f} s in all; {notes}")
        if batch == batches[0]:
            found.setdefault(config.stem, {})[way] = result["images_per_second"]
            write_bytes(keep / "probe.json", (json.dumps(found, indent=1) + "\n").encode())

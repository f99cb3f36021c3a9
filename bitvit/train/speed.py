"""How fast a network trains on this machine."""

import time

import torch
from torch.nn import functional

from bitvit.kernels.target import target_has
from bitvit.train.augment import Variants, normalise
from bitvit.train.loop import build
from bitvit.train.network import BHViT
from bitvit.train.optimizers import build_optimizer
from bitvit.train.settings import Settings

__all__ = ["faster_precision", "seconds_an_image"]

IMAGES = 16  # of a step


def seconds_an_image(settings: Settings, classes: int, threads: int | None = None) -> float:
    """Seconds that a training step takes for an image: variants, forwards, backwards, optimiser.

    With so many threads; None: with one or all, whichever is faster now, as training chooses. A first step does not
    count: it may compile.
    """
    generator = torch.Generator().manual_seed(0)
    side, count = settings.network.image_size, min(IMAGES, settings.batch_size)
    pixels = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    labels, index = torch.arange(count) % classes, torch.arange(count)
    half = (0.5, 0.5, 0.5)
    model = build(settings, classes)
    if isinstance(model, BHViT):
        model.initialise(normalise(pixels, half, half))
    model.train()
    optimizer = build_optimizer(model, settings)
    most = torch.get_num_threads()
    best = float("inf")
    for step, count_of_threads in enumerate([threads or most, *((1, most) if threads is None else (threads, threads))]):
        torch.set_num_threads(count_of_threads)
        start = time.perf_counter()
        batch = normalise(Variants.draw(settings.augment, count, step)(pixels, index), half, half)
        with torch.autocast("cpu", torch.bfloat16, settings.precision == "bfloat16"):
            logits = model(batch)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            best = min(best, time.perf_counter() - start)
    torch.set_num_threads(most)
    return best / count


def faster_precision() -> str:
    """bfloat16 on processors that multiply it, where steps take two thirds of the time (tools/train/README.md)."""
    return "bfloat16" if target_has("avx512bf16") or target_has("amx-bf16") else "float32"

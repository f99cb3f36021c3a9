"""Networks off every multiple that kernels like: 16 lanes, 32 bits, 7 rows, 4 groups of 16."""

from typing import Any

import numpy as np

from bitvit.config import Config, valid_windows
from bitvit.errors import ConfigError


def shape(image: int, window: int, widths: tuple[int, ...], ratios: tuple[int, ...], **others: Any) -> Config:
    fields: dict[str, Any] = {
        "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "num_classes": 7, "norm": "batch", "downsampling": "float",
        "quantizer": "levels", "layer_scale": True, "shift3": True, "shift5": True, **others,
    }  # fmt: skip
    hidden = tuple(width * ratio for width, ratio in zip(widths, ratios, strict=True))
    return Config(image_size=image, window_size=window, hidden_sizes=widths, intermediate_sizes=hidden, **fields)  # type: ignore[arg-type]


ODD_SHAPES = {
    "window 3": shape(96, 3, (4, 12, 20, 36), (1, 2, 3, 5), num_heads=(1, 1, 4, 3)),
    "window 3, layer norm": shape(96, 3, (4, 12, 20, 36), (5, 3, 2, 1), num_heads=(1, 1, 4, 3), norm="layer"),
    "window 5": shape(160, 5, (4, 20, 36, 52), (3, 2, 5, 1), num_heads=(1, 1, 9, 13), shift3=False),
    "window 5, layer norm, gsb": shape(
        160, 5, (4, 12, 52, 20), (2, 1, 3, 3), num_heads=(1, 1, 2, 5), norm="layer", quantizer="gsb", shift5=False
    ),
    "binary": shape(96, 1, (12, 36, 36, 108), (3, 5, 1, 2), num_heads=(1, 1, 6, 2), downsampling="binary"),
    "binary, layer norm": shape(
        96, 3, (20, 20, 40, 120), (2, 3, 5, 1), num_heads=(1, 1, 2, 3), downsampling="binary", norm="layer"
    ),
    "odd widths": shape(
        32, 1, (36, 52, 7, 45), (1, 2, 3, 1), num_heads=(1, 1, 7, 9), shift3=False, shift5=False, layer_scale=False
    ),
    "odd widths, layer norm": shape(
        48, 1, (52, 4, 21, 5), (2, 8, 3, 3), num_heads=(1, 1, 3, 1), norm="layer", shift3=False, shift5=False
    ),
    "even ratios": shape(64, 1, (8, 16, 48, 80), (4, 8, 4, 2), num_heads=(1, 1, 3, 1), depths=(2, 1, 1, 2)),
    "12, 6, 3, 1": shape(48, 1, (16, 32, 64, 96), (4, 2, 1, 3), num_heads=(1, 1, 4, 6), quantizer="gsb"),
    "extra pixels": shape(
        67, 1, (4, 8, 16, 32), (4, 4, 4, 4), num_heads=(1, 1, 4, 2), num_classes=0, layer_scale=False
    ),
    "a fork's, batch norm": shape(
        224, 7, (12, 20, 12, 36), (2, 1, 3, 1), num_heads=(1, 1, 3, 4), image_norm=True, coordinates=True,
        positions="sinusoidal", pooling="attention",
    ),
    "a fork's, layer norm": shape(
        67, 1, (8, 12, 20, 28), (1, 2, 1, 2), norm="layer", image_norm=True, coordinates=True, pooling="top",
        top_tokens=3,
    ),
    "a fork's, even windows": shape(
        256, 8, (4, 8, 12, 20), (1, 2, 1, 2), num_heads=(1, 1, 2, 4), merge_padding="three", pooling="top",
        top_tokens=9, num_classes=0,
    ),
    "a fork's, layer norm, attention": shape(
        96, 3, (4, 8, 44, 52), (2, 1, 2, 1), norm="layer", coordinates=True, pooling="attention",
    ),
}  # fmt: skip


def _additions(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    """What forks have added, in half of the networks."""
    if rng.random() < 0.5:
        return {}
    pooling = str(rng.choice(["mean", "attention", "top"]))
    return {
        "image_norm": bool(rng.random() < 0.5), "coordinates": bool(rng.random() < 0.5),
        "positions": str(rng.choice(["learned", "sinusoidal"])), "pooling": pooling,
        "top_tokens": int(rng.integers(1, tokens + 1)) if pooling == "top" else 0,
    }  # fmt: skip


def random_shape(seed: int) -> Config:
    """Any valid shape of small size."""
    rng = np.random.default_rng(seed)
    while True:
        image = int(rng.choice([32, 35, 48, 50, 64, 96, 97]))
        binary = bool(rng.random() < 0.5)
        widths = [4 * int(rng.integers(1, 20)), 0, 0, 0]
        for s in (1, 2, 3):
            free = 4 * int(rng.integers(1, 20)) if s == 1 else int(rng.integers(3, 100))
            widths[s] = widths[s - 1] * int(rng.integers(1, 4)) if binary else free
        if max(widths) > 200:
            continue
        ratios = tuple(int(rng.integers(1, max(2, min(9, 300 // width)))) for width in widths)
        heads = (1, 1, *(int(rng.choice([h for h in range(1, 17) if width % h == 0])) for width in widths[2:]))
        flags = {name: bool(rng.random() < 0.5) for name in ("layer_scale", "shift3", "shift5")}
        try:
            return shape(
                image, int(rng.choice(valid_windows(image))), tuple(widths), ratios, num_heads=heads,
                depths=tuple(rng.integers(1, 3, 4).tolist()), num_classes=int(rng.integers(0, 70)),
                norm=str(rng.choice(["batch", "layer"])), downsampling="binary" if binary else "float",
                quantizer=str(rng.choice(["levels", "gsb"])), **flags, **_additions(rng, (image // 32) ** 2),
            )  # fmt: skip
        except ConfigError:  # shifts want four chunks of channels
            continue

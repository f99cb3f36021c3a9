"""Draw a small set of photographs of four surfaces, to train on: the project's own, made of nothing but a seed.

    python -m tools.train.photographs FOLDER --count 300
    bitvit train FOLDER -o surfaces.safetensors

bricks, planks, pebbles and leaves, 160 x 120 pixels, JPEG. Colours, light, scale, angle, blur, noise, dirt and what
lies in front are drawn at random from the same ranges for all four, so that only the pattern tells them apart. Equal
runs give equal images.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["CLASSES", "draw", "write"]

WIDTH, HEIGHT = 160, 120
SIDE = 288  # of the drawn surface, from which a turned piece is cut
Random = np.random.Generator
Colour = tuple[int, int, int]


def _colours(rng: Random) -> tuple[Colour, Colour]:
    """Two colours that differ in brightness, of any hue."""
    base = rng.uniform(40, 215, 3)
    step = rng.uniform(25, 70) * rng.choice([-1, 1])
    other = np.clip(base + step + rng.normal(0, 10, 3), 0, 255)
    return _colour(base), _colour(other)


def _colour(values: object) -> Colour:
    r, g, b = np.clip(np.asarray(values), 0, 255).astype(int).tolist()
    return r, g, b


def _varied(colour: Colour, rng: Random, amount: float = 14) -> Colour:
    return _colour(np.asarray(colour) + rng.normal(0, amount) + rng.normal(0, amount / 3, 3))


def bricks(pen: ImageDraw.ImageDraw, rng: Random, scale: float, stone: Colour, gap: Colour) -> None:
    """Rows of oblongs, each row shifted against the one above."""
    pen.rectangle((0, 0, SIDE, SIDE), fill=gap)
    height, width = 16 * scale, 16 * scale * rng.uniform(1.6, 2.6)
    joint = max(1.0, scale * rng.uniform(1, 3))
    for row in range(int(SIDE / height) + 1):
        left = -width * (row % 2) / 2 - rng.uniform(0, 2)
        while left < SIDE:
            box = (left + joint, row * height + joint, left + width, (row + 1) * height)
            pen.rectangle(box, fill=_varied(stone, rng))
            left += width


def planks(pen: ImageDraw.ImageDraw, rng: Random, scale: float, wood: Colour, gap: Colour) -> None:
    """Long boards with grain along them, and their ends here and there."""
    pen.rectangle((0, 0, SIDE, SIDE), fill=gap)
    height, joint = 16 * scale * rng.uniform(0.9, 1.5), max(1.0, scale * rng.uniform(1, 3))
    for row in range(int(SIDE / height) + 1):
        top, left = row * height, -rng.uniform(0, SIDE)
        while left < SIDE:
            length = 16 * scale * rng.uniform(6, 14)
            own = _varied(wood, rng)
            pen.rectangle((left + joint, top + joint, left + length, top + height), fill=own)
            for _ in range(4):
                y = rng.uniform(top + joint, top + height)
                pen.line((left + joint, y, left + length, y + rng.normal(0, 1)), fill=_varied(own, rng, 10))
            left += length


def _round(pen: ImageDraw.ImageDraw, x: float, y: float, size: float, flat: float, turn: float, fill: Colour) -> None:
    """An ellipse that is turned, as a polygon."""
    angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    across, along = size * np.cos(angles), size * flat * np.sin(angles)
    xs, ys = x + across * math.cos(turn) - along * math.sin(turn), y + across * math.sin(turn) + along * math.cos(turn)
    pen.polygon(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=fill)


def pebbles(pen: ImageDraw.ImageDraw, rng: Random, scale: float, stone: Colour, gap: Colour) -> None:
    """Round stones of many sizes, one over another."""
    pen.rectangle((0, 0, SIDE, SIDE), fill=gap)
    for _ in range(int(800 / scale**2)):
        x, y = rng.uniform(0, SIDE, 2)
        size, flat, turn = 9 * scale * rng.uniform(0.6, 1.3), rng.uniform(0.65, 1.0), rng.uniform(0, math.pi)
        _round(pen, x + scale, y + scale, size, flat, turn, _varied(gap, rng, 6))
        _round(pen, x, y, size, flat, turn, _varied(stone, rng))


def leaves(pen: ImageDraw.ImageDraw, rng: Random, scale: float, leaf: Colour, gap: Colour) -> None:
    """Pointed leaves with a rib, one over another."""
    pen.rectangle((0, 0, SIDE, SIDE), fill=gap)
    for _ in range(int(800 / scale**2)):
        x, y = rng.uniform(0, SIDE, 2)
        size, flat, turn = 9 * scale * rng.uniform(0.8, 1.6), rng.uniform(0.35, 0.6), rng.uniform(0, 2 * math.pi)
        along = np.linspace(-1, 1, 7)
        half = flat * (1 - along**2)
        outline = np.concatenate([np.stack([along, half], 1), np.stack([along, -half], 1)[::-1]]) * size
        spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        for shift, fill in ((scale, _varied(gap, rng, 6)), (0.0, _varied(leaf, rng))):
            points = outline @ spin.T + (x + shift, y + shift)
            pen.polygon([(px, py) for px, py in points.tolist()], fill=fill)
        ends = np.array([[-size, 0.0], [size, 0.0]]) @ spin.T + (x, y)
        pen.line([(px, py) for px, py in ends.tolist()], fill=_varied(gap, rng, 8))


CLASSES: dict[str, Callable[[ImageDraw.ImageDraw, Random, float, Colour, Colour], None]] = {
    "bricks": bricks,
    "leaves": leaves,
    "pebbles": pebbles,
    "planks": planks,
}


def draw(name: str, number: int, seed: int = 0) -> Image.Image:
    """Photograph number so much of a class."""
    rng = np.random.default_rng([seed, list(CLASSES).index(name), number])
    surface = Image.new("RGB", (SIDE, SIDE))
    pen = ImageDraw.Draw(surface)
    CLASSES[name](pen, rng, rng.uniform(1.0, 2.2), *_colours(rng))
    for _ in range(rng.integers(0, 5)):  # dirt
        x, y = rng.uniform(0, SIDE, 2)
        _round(pen, x, y, rng.uniform(6, 26), rng.uniform(0.4, 1), rng.uniform(0, 3), _colour(rng.uniform(0, 255, 3)))
    turned = surface.rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR)
    left, top = (SIDE - WIDTH) // 2, (SIDE - HEIGHT) // 2
    photo = turned.crop((left, top, left + WIDTH, top + HEIGHT))
    photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    return _lit(_covered(photo, rng), rng)


def _covered(photo: Image.Image, rng: Random) -> Image.Image:
    """With something in front of it, in half of the photographs."""
    if rng.random() < 0.5:
        pen = ImageDraw.Draw(photo)
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        _round(pen, x, y, rng.uniform(15, 45), rng.uniform(0.4, 1), rng.uniform(0, 3), _colour(rng.uniform(0, 255, 3)))
    return photo


def _lit(photo: Image.Image, rng: Random) -> Image.Image:
    """Light from one side, a cast of colour, noise."""
    pixels = np.asarray(photo).astype(np.float64)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.6)
    light = rng.uniform(0.55, 1.25) + depth * (math.cos(angle) * x + math.sin(angle) * y)
    pixels = pixels * light[..., None] * rng.uniform(0.85, 1.15, 3) + rng.normal(0, rng.uniform(2, 10), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write(folder: Path, count: int, seed: int = 0) -> None:
    """FOLDER/CLASS/NUMBER.jpg, so many of each class."""
    for name in CLASSES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(name, number, seed).save(place / f"{number:04}.jpg", quality=85)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.photographs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder to write the photographs into")
    parser.add_argument("--count", type=int, default=300, help="of each class; default: 300")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(arguments)
    write(options.folder, options.count, options.seed)
    print(f"{len(CLASSES) * options.count} photographs in {options.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Draw the sample images in weights/samples: one each of eight Fashion-MNIST classes, as 28 x 28 grey PNGs.

    python -m tools.draw_samples [FOLDER]

They are the project's own: polygons below, in pixels of the 28 x 28 image, light on black. Nothing is taken from the
data set but its size and its way of filling the frame. Equal runs give equal pixels.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

SIDE = 28
SCALE = 16  # drawn this many times larger, then averaged, which smooths the edges
SAMPLES = Path(__file__).resolve().parent.parent / "weights" / "samples"

Point = tuple[float, float]


class Shape(NamedTuple):
    """A filled polygon, or with a width an open line through the points."""

    grey: int
    points: list[Point]
    width: float = 0


def polygon(grey: int, points: str) -> Shape:
    """Points as SVG writes them: 'x,y x,y ...'."""
    return Shape(grey, [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in points.split())])


def line(grey: int, width: float, points: str) -> Shape:
    return polygon(grey, points)._replace(width=width)


def symmetric(grey: int, left: str) -> Shape:
    """A polygon from its left half, listed from the top down; the axis is the middle of the image."""
    half = polygon(grey, left)
    return half._replace(points=half.points + mirror(half).points[::-1])


def mirror(shape: Shape) -> Shape:
    return shape._replace(points=[(SIDE - x, y) for x, y in shape.points])


SEAM = polygon(170, "7,8.5 7.6,8.5 7.4,14 7,14")

DRAWINGS: dict[str, tuple[Shape, ...]] = {
    "t-shirt": (
        symmetric(210, "10,0.5 7,1.5 3.5,3 1,9 5,11 7,8.5 7,27.5"),
        symmetric(0, "10.8,0 12,1.8 13.5,2.4"),
        SEAM,
        mirror(SEAM),
    ),
    "trouser": (
        symmetric(200, "9.5,0.5 8.5,10 8.5,27.5 12,27.5 13.6,9 14,8"),
        line(150, 0.7, "9.4,2.2 18.6,2.2"),
        line(140, 0.6, "14,0.5 14,8"),
    ),
    "pullover": (
        symmetric(215, "10,0.5 6.5,2.5 4,8 1.5,26.5 5,27 7.6,12 8,26 8,27"),
        symmetric(0, "10.6,0 12,1.6 13.5,2"),
        *(line(170, 0.5, f"8,{y} 20,{y}") for y in (24.2, 25.4, 26.4)),
    ),
    "dress": (
        symmetric(205, "11,0.5 10,4 10.8,8 11,12 9.5,20 8,27.5"),
        symmetric(0, "12,0 12.8,3 13.8,3.6"),
        line(150, 0.7, "10.9,11.8 17.1,11.8"),
    ),
    "sandal": (
        polygon(180, "1,20.5 9,19 18,14.5 22,12.5 26,12 26.5,14 22,15.5 13,20.5 2,22"),
        polygon(150, "24.5,13 26.6,13 26,22.5 24.8,22.5"),
        line(210, 1.2, "2.5,20 5,16.8 8.5,19"),
        line(210, 1.2, "6,19.5 10,14.5 13.5,17"),
        line(210, 1.1, "17,14.8 20,7.5 26,7 25.5,12.5"),
    ),
    "sneaker": (
        polygon(200, "0.5,17 5,15.5 10,12.5 14,10 17,11 22,11.5 26,9.8 27.5,13 27.5,18 0.5,18.8"),
        polygon(240, "0.3,17.8 27.6,17.2 27.5,19.5 1,19.6"),
        *(line(120, 0.5, f"{x},{y} {x + 1.7},{y + 1.6}") for x, y in ((8.5, 13), (10.3, 12), (12.1, 11))),
        line(140, 0.6, "14,16.5 20,13 21.5,16.5"),
    ),
    "bag": (
        line(190, 1.0, "9.5,9.5 10,4.5 12,2 16,2 18,4.5 18.5,9.5"),
        symmetric(200, "3.5,9 1.5,12 1,26 2,27"),
        line(130, 0.7, "2,14.5 14,17 26,14.5"),
        polygon(90, "13.2,16 14.8,16 14.8,18.4 13.2,18.4"),
    ),
    "ankle-boot": (
        polygon(
            205, "13.5,2 25,1.5 26,12 26.8,20 26.5,25.5 20.5,25.5 19.5,23.6 13,25 1.5,25.5 1,22 6,19.5 12,16 13.8,11"
        ),
        line(120, 0.6, "1.2,23.6 13,23.4 20,21.8 26.5,22"),
        line(150, 0.8, "17.5,2 18,9 17,14"),
    ),
}


def draw(shapes: tuple[Shape, ...]) -> Image.Image:
    """The shapes in order on black: 28 x 28, grey."""
    image = Image.new("L", (SIDE * SCALE, SIDE * SCALE))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        points = [(x * SCALE, y * SCALE) for x, y in shape.points]
        if shape.width:
            pen.line(points, fill=shape.grey, width=round(shape.width * SCALE), joint="curve")
        else:
            pen.polygon(points, fill=shape.grey)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def write_samples(folder: Path) -> None:
    """Write all drawings as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shapes in DRAWINGS.items():
        draw(shapes).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tools.draw_samples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLES, help="default: weights/samples")
    write_samples(parser.parse_args().folder)

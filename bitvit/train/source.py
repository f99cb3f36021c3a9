"""Labelled images before they are read: where each is, and of which class; needs no PyTorch."""

from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Raw", "Source"]

Raw: TypeAlias = list[tuple[Any, int]]
"""Images as open_image takes them, and their classes."""


@dataclass(frozen=True)
class Source:
    """Both splits, with what a model of them needs to know."""

    train: Raw
    test: Raw
    labels: list[str]
    origin: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """None: they are measured."""
    side: int | None = None
    """Of the images, if they all have the same."""
    notes: tuple[str, ...] = ()
    """What was found besides, and what was done about it, for people."""

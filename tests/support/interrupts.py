"""Ctrl-C at a chosen place of a call."""

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def interrupted_at(place: int, call: Callable[[], object], where: Callable[[CodeType], bool]) -> bool:
    """Make a call in which Ctrl-C comes before line `place` of the code that is meant; whether there is such a line."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not where(frame.f_code):
            return None
        if event == "line":
            lines += 1
            if lines == place:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False

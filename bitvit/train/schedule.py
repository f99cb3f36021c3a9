"""Learning rate and regulariser as functions of the step alone, so that a resumed run needs no schedule's state.

In place of steps they take any measure of what is done and of all there is to do: timed.py gives them seconds.
"""

import math

from bitvit.train.settings import Settings

__all__ = ["learning_rate", "regulariser"]


def learning_rate(settings: Settings, step: float, steps: float) -> float:
    """A straight rise in the warm-up, then half a cosine down to zero; for step 0 .. steps - 1."""
    rise = settings.warmup * steps
    if step < rise:
        return settings.learning_rate * (step + 1) / (rise + 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def regulariser(settings: Settings, step: float, steps: float) -> float:
    """β, in the last share of the steps, else 0."""
    return settings.regulariser if step >= steps - settings.regulariser_share * steps else 0.0

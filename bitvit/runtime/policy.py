"""When a team of threads pays, and when its leader had better compute alone.

A team pays only if every member has a core. In a contended call one had not: the leader waited for a helper or was
itself interrupted, and the call took longer than an image computed alone. After two contended calls in a row the next
calls do without helpers: 2, then 4, then 8 … up to `most`, for as long as every call with helpers in between is
contended. The calls without helpers also tell how long an image takes alone.

Arithmetic only: it neither reads a clock nor knows of threads. Whoever leads the team tells it what happened.
"""

__all__ = ["MOST_CALLS", "RestPolicy"]

MOST_CALLS = 64


class RestPolicy:
    """Decides for each call of a team whether to make it with helpers.

    most: the longest rest, in calls; 0 for a team that never rests.
    """

    def __init__(self, most: int = MOST_CALLS) -> None:
        self.most = most
        self._contended = False  # the last call with helpers
        self._length = 0  # of the last rest, in calls; 0 unless contention has gone on since
        self._left = 0  # calls of this rest
        self._alone = 0.0  # seconds of an image without helpers; 0 until it is known

    @property
    def resting(self) -> int:
        """How many of the next calls do without helpers."""
        return self._left

    def use_helpers(self) -> bool:
        """Whether to make the next call with helpers; counts it if not. To be asked once a call."""
        if self._left == 0:
            return True
        self._left -= 1
        return False

    def computed_alone(self, seconds: float) -> None:
        """An image was computed without helpers, in so many seconds."""
        self._alone = seconds

    def computed_together(self, seconds: float, *, stalled: bool, interruptions: int) -> None:
        """An image was computed with helpers.

        seconds: from the start of the call to its end. stalled: the leader waited too long for a helper.
        interruptions: how often the leader was taken off its core meanwhile.
        """
        contended = seconds > self._alone and (stalled or interruptions > 0)
        if not contended:
            self._length = 0
        elif self._contended:
            self._length = min(self.most, 2 * self._length or 2)
        self._contended, self._left = contended, self._length

"""When a team of threads pays, and when its leader had better compute alone.

A team pays where its calls take less time than an image computed alone: not if a member has no core for itself, nor for
a small network if cores are so far apart that fetching each other's results takes longer than computing them. A call
that took longer is in vain. After two calls in vain in a row the next calls do without helpers: 2, then 4, then 8 … up
to `most`, for as long as every call with helpers in between is in vain. Calls without helpers tell how long an image
takes alone; so that this is known where a team never rests, one call is made alone now and then.

Arithmetic only: it neither reads a clock nor knows of threads. Whoever leads the team tells it what happened.
"""

__all__ = ["FIRST", "MOST_CALLS", "OFTEN", "SELDOM", "RestPolicy"]

MOST_CALLS = 64

# After how many calls with helpers one is made alone: where no call was, where the two take about as long, and else.
FIRST, OFTEN, SELDOM = 8, 64, 1024
NEAR = 0.75  # of the time alone
RISE = 1.25  # by which that time goes up at most, as an interruption can make one call long


class RestPolicy:
    """Decides for each image that a team could share whether to compute it with helpers: a call, in what follows.

    most: the longest rest, in calls; 0 for a team that never rests.
    """

    def __init__(self, most: int = MOST_CALLS) -> None:
        self.most = most
        self._in_vain = False  # the last call with helpers
        self._length = 0  # of the last rest, in calls; 0 unless calls have been in vain since
        self._left = 0  # calls of this rest
        self._alone = 0.0  # seconds of an image without helpers; 0 until it is known
        self._together = 0  # calls with helpers since then

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
        self._alone = min(seconds, RISE * self._alone) if self._alone else seconds
        self._together = 0

    def computed_together(self, seconds: float, *, stalled: bool, interruptions: int) -> None:
        """An image was computed with helpers.

        seconds: from the start of the call to its end. stalled: the leader waited too long for a helper.
        interruptions: how often the leader was taken off its core meanwhile. These two count until it is known how long
        an image takes alone.
        """
        in_vain = seconds > self._alone if self._alone else stalled or interruptions > 0
        if not in_vain:
            self._length = 0
        elif self._in_vain:
            self._length = min(self.most, 2 * self._length or 2)
        self._in_vain, self._left = in_vain, self._length
        self._together += 1
        if self.most and not self._left and self._together >= self._patience(seconds):
            self._left = 1

    def _patience(self, seconds: float) -> int:
        """How many calls with helpers are made in a row, of which the last took so many seconds."""
        if not self._alone:
            return FIRST
        return OFTEN if seconds > NEAR * self._alone else SELDOM

"""When the next request may be sent: not more than so many a minute, and later after failures."""

from __future__ import annotations

from typing import Final

# Seconds to wait after failures in a row; one more, and the system is not asked any longer.
DELAYS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0)
LONGEST_WAIT: Final = 900.0  # seconds that an endpoint may ask for and is granted


class Pacing:
    """All moments are seconds on one clock, the caller's.

    Requests that were under way together and fail together are one failure: it is the endpoint
    that is busy, not each prompt.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0  # by the rate
        self._paused_until = 0.0
        self._failed_at = 0.0
        self.failures = 0  # in a row

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 or less: now."""
        return max(self._next, self._paused_until) - now

    def paused(self, now: float) -> float:
        """Seconds of those that are for an earlier failure."""
        return max(0.0, self._paused_until - now)

    def started(self, now: float) -> None:
        self._next = now + self._gap

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, started: float, now: float, retry_after: float | None) -> bool:
        """Whether it is worth going on after a failure of a request that began at `started`."""
        if started >= self._failed_at or self.failures == 0:
            self.failures += 1
            self._failed_at = now
            if self.failures > len(DELAYS):
                return False
            self._paused_until = max(self._paused_until, now + DELAYS[self.failures - 1])
        if retry_after is not None:
            if retry_after > LONGEST_WAIT:
                return False
            self._paused_until = max(self._paused_until, now + retry_after)
        return True

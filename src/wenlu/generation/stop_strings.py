"""Finding stop strings in text that arrives in pieces, and holding back what may become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string; ``found`` is that string once it came.

    The stop string that is complete first wins (of two that end together, the one that began first), so the result does
    not depend on how the text was cut into pieces. What is let through never contains a part of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, piece: str, *, armed: bool = True) -> str:
        """The text that is certain by now; while not ``armed``, everything, and nothing of it counts for a match."""
        assert self.found is None, "the text has ended"
        held = self._held + piece
        if not armed:
            self._held = ""
            return held
        matches = [(start + len(stop), start, stop) for stop in self.stops if (start := held.find(stop)) >= 0]
        if matches:
            _, start, self.found = min(matches)
            self._held = ""
            return held[:start]
        certain = len(held) - self._uncertain(held)
        self._held = held[certain:]
        return held[:certain]

    def finish(self) -> str:
        """The text that was held back and turned out not to be a stop string."""
        held, self._held = self._held, ""
        return held

    def _uncertain(self, held: str) -> int:
        """Length of the longest end of ``held`` that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for length in range(min(longest, len(held)), 0, -1):
            if any(stop.startswith(held[-length:]) for stop in self.stops):
                return length
        return 0

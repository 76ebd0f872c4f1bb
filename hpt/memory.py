"""Unsolved questions that draw no rollouts for a while: the saving that Section 4.2 speaks of, which no release has.

The paper says that rollouts "are no longer required" where HPT has switched to SFT. But P of Eq. 8 is measured on them,
so leaving them out means trusting an old P: a question whose last rollouts were at or below the gate learns from its
demonstration for its next ``gate.skip_visits`` visits without being asked. With 0, the default and what the authors'
code does, every question is asked at every visit.
"""

from collections.abc import Iterable, Mapping
from typing import Any


class FeedbackMemory:
    """Which questions rest; a function of the rows of ``rollouts.parquet``, so a resumed run needs no other state.

    Args:
        skip_visits: visits without rollouts after one that ended at or below the gate.
        rows: those recorded so far, in order.

    Example:
        >>> row = {"problem_id": "q", "rollouts": 8, "branch": "demonstration"}
        >>> memory = FeedbackMemory(1, [row])
        >>> memory.rests("q"), memory.see([row | {"rollouts": 0}]), memory.rests("q")
        (True, None, False)
    """

    def __init__(self, skip_visits: int, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.skip_visits = skip_visits
        self._left: dict[str, int] = {}
        self.see(rows)

    def rests(self, problem_id: str) -> bool:
        """Return whether the question draws no rollouts at its next visit."""
        return self._left.get(problem_id, 0) > 0

    def see(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the rows of a step."""
        if not self.skip_visits:
            return
        for row in rows:
            name = str(row["problem_id"])
            if row["rollouts"]:
                self._left[name] = self.skip_visits if row["branch"] == "demonstration" else 0
            else:
                self._left[name] = max(0, self._left.get(name, 0) - 1)

"""Lists and durations in words, and the name that was meant."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def few(names: Sequence[str], most: int) -> str:
    """Return the first of some names, and how many more there are: ``a; b; and 1 more``."""
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "correct the name") -> str:
    """Return the remedy for a name that is none of ``names``: the closest one, where one is close."""
    close = get_close_matches(name, list(names), 1)
    return f"did you mean {close[0]}?" if close else otherwise


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration(42), duration(600), duration(9000), duration(1_234_000)
        ('42 s', '10 min', '2.5 h', '343 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"

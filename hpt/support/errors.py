"""The exceptions a user of hpt can meet; every message names the field, the value, what is allowed and the remedy."""

import os
import sys


class HptError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(HptError):
    """A setting (dotted name), data row (``file:line``) or file of the user's cannot be used; exit code 2.

    Example:
        >>> print(ConfigError("gate.count", 9, "a count from 0 to 8", "set gate.count to 8 or less"))
        gate.count = 9: allowed is a count from 0 to 8; set gate.count to 8 or less
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str) -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        # a pasted 10,000-character value, or name, would bury the sentence that helps
        shown = _short(repr(value) if isinstance(value, str) else str(value))
        super().__init__(f"{_short(field)} = {shown}: allowed is {allowed}; {remedy}")


def _short(text: str) -> str:
    return text[:200] + "..." if len(text) > 200 else text


class RunRefused(ConfigError):
    """A run's process found a mistake in what was asked for; its message, which names the field, is repeated."""

    def __init__(self, message: str) -> None:
        HptError.__init__(self, message)


class TrainingFault(HptError):
    """Training stopped because going on would have produced wrong numbers (stale weights, non-finite loss, ...)."""


class RecordFault(HptError):
    """A stored record (checkpoint, metrics, evaluation) is damaged, missing or from another configuration."""


_SAID: set[str] = set()


def warn(message: str) -> None:
    """Print a warning on stderr, once per process, by the first rank; `hpt.runs.pool` passes it on."""
    if os.environ.get("RANK", "0") == "0" and message not in _SAID:
        _SAID.add(message)
        print(f"warning: {message}", file=sys.stderr, flush=True)

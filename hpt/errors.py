"""The exceptions a user of hpt can meet; every message names the field, the value, what is allowed and the remedy."""


class HptError(Exception):
    """Base class of every error this package raises on purpose.

    Example:
        >>> try:
        ...     raise HptError("no such run")
        ... except HptError as error:
        ...     print(error)
        no such run
    """


class ConfigError(HptError):
    """A setting, data row or file given by the user cannot be used; the command line exits with code 2.

    Args:
        field: dotted name of the setting, or ``file:line`` of a data row.
        value: what was given.
        allowed: what would have been accepted.
        remedy: what to type or change.

    Example:
        >>> print(ConfigError("gate.count", 9, "a count from 0 to 8", "set gate.count to 8 or less"))
        gate.count = 9: allowed is a count from 0 to 8; set gate.count to 8 or less
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str) -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 200:  # a pasted 10,000-character value would bury the sentence that helps
            shown = shown[:200] + "..."
        super().__init__(f"{field} = {shown}: allowed is {allowed}; {remedy}")


class TrainingFault(HptError):
    """Training stopped because going on would have produced wrong numbers (stale weights, non-finite loss, ...)."""


class RecordFault(HptError):
    """A stored record (checkpoint, metrics, evaluation) is damaged, missing or from another configuration."""

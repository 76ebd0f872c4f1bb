"""Looking a name up in a table of the package, or in a user's own module (``my_module:my_gate``)."""

from collections.abc import Mapping
from typing import TypeVar

from hpt.errors import ConfigError
from hpt.own_modules import import_own

Entry = TypeVar("Entry")


def resolve(table: Mapping[str, Entry], name: str, field: str) -> Entry:
    """Return the entry called ``name`` of ``table``, or the attribute ``module:attribute`` of an importable module.

    A user's own row, gate or method lives in a module of theirs; the training process imports it, nothing is pickled.

    Args:
        table: the package's own entries by name.
        name: a key of the table or ``module:attribute``.
        field: the setting being read, for the error.

    Raises:
        ConfigError: neither a key nor importable, or the module lacks the attribute.

    Example:
        >>> resolve({"one": 1}, "one", "row")
        1
    """
    if name in table:
        return table[name]
    module_name, separator, attribute = name.partition(":")
    if separator and all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        module = import_own(module_name, field, name)
        if not hasattr(module, attribute):
            public = [own for own in vars(module) if not own.startswith("_")]
            allowed = f"module:attribute; {module_name} has " + (", ".join(public) or "nothing")
            raise ConfigError(field, name, allowed, "correct the attribute, or define it in the module")
        return getattr(module, attribute)
    raise ConfigError(field, name, "one of " + ", ".join(table) + ", or module:attribute", "correct the name")

"""Looking a name up in a table of the package, or in a user's own module (``my_module:my_gate``)."""

import importlib
from collections.abc import Mapping
from typing import TypeVar

from hpt.errors import ConfigError

Entry = TypeVar("Entry")


def resolve(table: Mapping[str, Entry], name: str, field: str) -> Entry:
    """Return the entry called ``name`` of ``table``, or the attribute ``module:attribute`` of an importable module.

    A user's own row, gate or method lives in a module of theirs; the training process imports it, nothing is pickled.

    Args:
        table: the package's own entries by name.
        name: a key of the table or ``module:attribute``.
        field: the setting being read, for the error.

    Raises:
        ConfigError: neither a key nor importable.

    Example:
        >>> resolve({"one": 1}, "one", "row")
        1
    """
    if name in table:
        return table[name]
    module_name, separator, attribute = name.partition(":")
    if separator and all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            remedy = f"put {module_name}.py where Python finds it (current folder or PYTHONPATH): {error}"
            raise ConfigError(field, name, "a module:attribute that can be imported", remedy) from error
    raise ConfigError(field, name, "one of " + ", ".join(table) + ", or module:attribute", "correct the name")

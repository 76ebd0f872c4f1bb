"""The parameters of a notebook, checked before anything is computed."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from hpt.errors import ConfigError

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", list: "a list", dict: "a dict"}
#: How a notebook's own parameters cell begins, and how papermill begins the cell it injects after it.
OWN_CELL, INJECTED_CELL = "# Parameters:", "# Parameters\n"


def parameters(namespace: Mapping[str, Any], **allowed: type) -> dict[str, Any]:
    """Return the notebook's parameters, checked; call it before anything else with ``globals()``.

    papermill only warns of a name that the notebook does not know, and the run would then be another than was asked
    for. A list or dict may be given as JSON text, which is how ``papermill -p seeds "[0]"`` passes it.

    Args:
        namespace: ``globals()`` of the notebook.
        allowed: every parameter with its type.

    Raises:
        ConfigError: a parameter that is not among ``allowed``, is missing, or is of another type.

    Example:
        >>> parameters({"scale": "tiny", "seeds": "[0, 1]"}, scale=str, seeds=list)
        {'scale': 'tiny', 'seeds': [0, 1]}
    """
    known = ", ".join(allowed)
    for name in _given_names(namespace):
        if name not in allowed:
            raise ConfigError(name, namespace.get(name), f"a parameter of this notebook: {known}", "correct the name")
    values = {}
    for name, kind in allowed.items():
        if name not in namespace:
            raise ConfigError(name, None, KINDS[kind], "run the parameters cell first")
        values[name] = _typed(name, namespace[name], kind)
    return values


def _given_names(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names that parameter cells assign, or where no cells are known, all names that hold plain values."""
    cells = namespace.get("In")
    if not isinstance(cells, list):
        return [name for name, value in namespace.items() if not name.startswith("_") and type(value) in KINDS]
    # From the last time the notebook's own cell ran: a name refused earlier stays in the history after its correction.
    start = max((number for number, cell in enumerate(cells) if cell.startswith(OWN_CELL)), default=0)
    names = []
    for cell in cells[start:]:
        if cell.startswith((OWN_CELL, INJECTED_CELL)):
            names += _assigned(cell)
    return names


def _assigned(cell: str) -> list[str]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # the cell failed when it ran, and so assigned nothing
        return []
    targets: list[ast.expr] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
            targets.append(statement.target)
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind in (list, dict) and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(name, value, f"{KINDS[kind]}, as JSON where it is text", "correct the value") from None
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(name, value, KINDS[kind], "correct the value")
    return value

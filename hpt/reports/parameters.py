"""A notebook's parameters, checked by name and type before anything that takes long is imported."""

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any

from hpt.support.errors import ConfigError

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", list: "a list", dict: "a dict"}
#: Parameters that every notebook has, with their types; further ones have the type of their default.
COMMON: dict[str, type] = {
    "scale": str, "seeds": list, "settings": dict, "runs_dir": str, "from_records": str, "output_dir": str,
}  # fmt: skip
#: How a notebook's parameters cell begins, and how papermill begins the cell it injects after it.
PARAMETERS_CELL, INJECTED_CELL = "# Parameters:", "# Parameters\n"


def parameters(needed: Iterable[str] = ()) -> dict[str, Any]:
    """Check the parameters of the notebook this is called from; see `read_parameters`."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ConfigError("given", None, "parameters, outside a notebook", "pass given={'scale': 'mini'}")
    given = read_parameters(shell.user_ns, needed)
    shell.user_ns.update(given)  # lists that papermill passed as text
    return given


def read_parameters(namespace: Mapping[str, Any], needed: Iterable[str] = COMMON) -> dict[str, Any]:
    """Return a notebook's parameters, checked against its parameters cell, which must have those ``needed``.

    papermill only warns of a name that the notebook does not know, and the run would then be another than was asked
    for. A list or dict may be given as JSON text, which is how ``papermill -p seeds "[0]"`` passes it. ``namespace`` is
    the kernel's; its ``In`` holds the executed cells.

    Example:
        >>> cell = "# Parameters:\\n" + "".join(f"{name} = {kind()!r}\\n" for name, kind in COMMON.items())
        >>> values = {name: kind() for name, kind in COMMON.items()} | {"seeds": "[0, 1]"}
        >>> read_parameters({"In": [cell], **values})["seeds"]
        [0, 1]
    """
    cells = list(namespace.get("In", []))
    # the last time that cell ran: a name refused earlier stays in the history after its correction
    start = max((number for number, cell in enumerate(cells) if cell.startswith(PARAMETERS_CELL)), default=None)
    if start is None:
        allowed = f"a cell that begins with {PARAMETERS_CELL!r}"
        raise ConfigError("parameters", None, allowed, "run the parameters cell first")
    defaults = _assigned(cells[start])
    for name in (name for cell in cells[start + 1 :] if cell.startswith(INJECTED_CELL) for name in _assigned(cell)):
        if name not in defaults:
            allowed = f"a parameter of this notebook: {', '.join(defaults)}"
            raise ConfigError(name, namespace.get(name), allowed, "correct the name")
    if missing := [name for name in needed if name not in defaults]:
        raise ConfigError(missing[0], None, "a line of the parameters cell", "write it there again")
    kinds = {name: COMMON.get(name) or type(default) for name, default in defaults.items()}
    return {name: _typed(name, namespace.get(name), kind) for name, kind in kinds.items()}


def _assigned(cell: str) -> dict[str, Any]:
    """Return the names a cell assigns, with their values, which are literals."""
    return {target.id: ast.literal_eval(statement.value) for statement in ast.parse(cell).body
            if isinstance(statement, ast.Assign) for target in statement.targets
            if isinstance(target, ast.Name)}  # fmt: skip


def _typed(name: str, value: Any, kind: type) -> Any:
    given = value
    if kind in (list, dict) and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        form = "[0, 1]" if kind is list else '{"gate.count": 2}' if kind is dict else ""
        remedy = f"write e.g. {name} = {form}, with papermill -p {name} '{form}'" if form else "correct the value"
        raise ConfigError(name, given, KINDS[kind], remedy)
    return value

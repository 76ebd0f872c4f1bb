"""Write docs/reference.md, the docstrings of what ``import hpt`` offers, as one page: `python docs/reference.py`."""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hpt
from hpt import api

PAGE = Path(__file__).with_name("reference.md")


def page() -> str:
    """Return the page as Markdown: a section per function of ``hpt.__all__``, then the rows of Table 1."""
    parts = [
        "# Reference: what `import hpt` offers",
        "From the docstrings, by `docs/reference.py`; their examples are tests. `notebooks/own_loop.ipynb` trains a "
        "model with these functions.",
        " · ".join(f"[{name}](#hpt{name.lower()})" for name in hpt.__all__),
        _markdown(inspect.getdoc(api) or ""),
    ]
    for name in hpt.__all__:
        parts.append(f"## hpt.{name}")
        if name != "ROWS":
            function = getattr(api, name, None) or getattr(hpt, name)
            parts += [f"```python\n{_header(function)}\n```", _markdown(inspect.getdoc(function) or "")]
        else:
            parts += ["Table 1 as data: `hpt.upge.row.Row` by name, each four choices and their constants.", _table()]
    return "\n\n".join(parts) + "\n"


def _header(function: Callable[..., Any]) -> str:
    source = inspect.getsource(function)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    return "\n".join(source.splitlines()[: definition.body[0].lineno - 1]).removesuffix(":")


def _markdown(docstring: str) -> str:
    """Return a docstring with its sections as Markdown: arguments and errors as lists, examples as code."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Example):\n", docstring, flags=re.MULTILINE)
    text = [parts[0].strip()]
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        body = inspect.cleandoc("\n" + body)
        if name == "Example":
            body = f"```python\n{body}\n```"
        elif name != "Returns":
            body = re.sub(r"\n +", " ", body)  # an entry per line
            body = re.sub(r"^([\w, ]+): ", r"- `\1`: ", body, flags=re.MULTILINE)
        text.append(f"**{name}**\n\n{body}")
    return "\n\n".join(text)


def _table() -> str:
    heads = ("row", "mask", "denominator", "advantage", "aggregation", "constants", "source")
    rows = [
        (f"`{row.name}`", row.mask, row.denominator, row.advantage, row.aggregation,
         ", ".join(f"{name} = {value}" for name, value in row.parameters.items()), row.source)
        for row in hpt.ROWS.values()
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ("---",) * len(heads), *rows))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

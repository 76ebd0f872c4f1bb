"""Custom rows, gates, methods and their parts: looking a name up, checking a function, hashing its code.

A name is a key of a table of the package, ``module:attribute`` of a module Python finds, or what an installed package
offers as an entry point of the groups ``hpt.methods``, ``hpt.rows`` and ``hpt.gates``. The training process
imports the module; nothing is pickled. What such a run computes depends on its code, so the hash of it is part of the
run's fingerprint, and the run folder keeps the source. Modules beside it that it imports count as well; what is
installed does not (versions are provenance), and neither do files it reads.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hpt.support.errors import ConfigError, HptError
from hpt.support.files import write_text
from hpt.support.text import did_you_mean

Entry = TypeVar("Entry")
#: Modules imported here and the text they were imported from.
_IMPORTED: dict[str, str] = {}


def resolve(table: Mapping[str, Entry], name: str, field: str) -> Entry:
    """Return the entry called ``name`` of ``table``, or the attribute that ``module:attribute`` names.

    ``field`` is the setting that names it, for the error where it is neither.
    """
    if name in table:
        return table[name]
    module_name, separator, attribute = name.partition(":")
    if not separator or not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        allowed = "one of " + ", ".join(table) + ", or module:attribute"
        raise ConfigError(field, name, allowed, did_you_mean(name, table))
    module = _imported(module_name, field, name)
    if not hasattr(module, attribute):
        public = ", ".join(key for key in vars(module) if not key.startswith("_"))
        allowed = f"module:attribute; {module_name} has {public or 'nothing'}"
        raise ConfigError(field, name, allowed, "correct the attribute, or define it in the module")
    return getattr(module, attribute)


def spelled(name: str, kind: str, table: Container[str]) -> str:
    """Return the ``module:attribute`` of what an installed package offers as ``name``; any other name as it is.

    ``kind`` is ``methods``, ``rows`` or ``gates``; the group of entry points is ``hpt.<kind>``. Names of ``table``, the
    package's, cannot be taken.

    Example:
        >>> spelled("hpt", "methods", ["hpt"]), spelled("mine:METHOD", "methods", [])
        ('hpt', 'mine:METHOD')
    """
    if name in table or ":" in name:
        return name
    return next((entry.value for entry in entry_points(group=f"hpt.{kind}", name=name)), name)


def _imported(module: str, field: str, name: str) -> ModuleType:
    if module in sys.modules:  # the training step comes here for every micro-batch
        return sys.modules[module]
    importlib.invalidate_caches()  # a file written a moment ago is not in Python's list of the folder's files
    try:
        return importlib.import_module(module)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and (module == absent or module.startswith(f"{absent}.")):
            remedy = f"put {module.replace('.', '/')}.py where Python finds it (current folder or PYTHONPATH)"
            raise ConfigError(field, name, "module:attribute with a module that exists", remedy) from error
        allowed = "module:attribute with a module that can be imported"
        raise ConfigError(field, name, allowed, f"correct {module}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return an error with the last line of the user's files that led to it."""
    installed = (sys.prefix, sys.base_prefix, "<", str(Path(__file__).parent))
    lines = [f"{frame.filename}:{frame.lineno}: " for frame in traceback.extract_tb(error.__traceback__)
             if not frame.filename.startswith(installed)]  # fmt: skip
    return f"{''.join(lines[-1:])}{type(error).__name__}: {error}"


def checked(function: Callable[..., Any], field: str, name: str, arguments: Sequence[Any], like: Any) -> Any:
    """Call a custom function once, before a run, and return what it returned, if that is like an example.

    ``like`` is an array or tensor, or a list of them; what is returned must have the same kind, shape and type, and be
    finite and without gradient. ``field`` and ``name`` are the setting and its value, for the error.

    Example:
        >>> import numpy as np
        >>> checked(lambda n: np.ones(n), "aggregation", "mine:scales", [3], np.zeros(2))
        Traceback (most recent call last):
        hpt.support.errors.ConfigError: aggregation = 'mine:scales': allowed is a ndarray of shape (2,), float64, \
finite, without gradient; correct it: it returned shape (3,)
    """
    try:
        returned = function(*arguments)
    except HptError:
        raise
    except Exception as error:
        takes = f"a function of {len(arguments)} arguments"
        raise ConfigError(field, name, takes, f"correct it: {_said(error)}") from error
    several, is_sequence = isinstance(like, list), isinstance(returned, list | tuple)
    if several and (not is_sequence or len(returned) != len(like)):
        found = f"a {type(returned).__name__}" + (f" of {len(returned)}" if is_sequence else "")
        raise ConfigError(field, name, f"a list or tuple of {len(like)}", f"correct it: it returned {found}")
    for value, example in zip(returned, like, strict=True) if several else [(returned, like)]:
        if wrong := _difference(value, example):
            kind = f"a {type(example).__name__} of shape {tuple(example.shape)}, {example.dtype}"
            raise ConfigError(field, name, f"{kind}, finite, without gradient", f"correct it: it returned {wrong}")
    return returned


def _difference(value: Any, example: Any) -> str:
    """In what an array or tensor is not like an example; empty when it is."""
    if not isinstance(value, type(example)):
        return f"a {type(value).__name__}"
    if value.shape != example.shape:
        return f"shape {tuple(value.shape)}"
    if value.dtype != example.dtype:
        return str(value.dtype)
    if getattr(value, "requires_grad", False):
        return "a gradient: use .detach()"
    return "" if bool((abs(value) < float("inf")).all()) else "infinite or missing numbers"


def refresh(names: Iterable[str]) -> None:
    """Import again what changed on disk since it was imported, so that a notebook sees the cell it just wrote.

    Called where settings become a configuration, never while training: a run must not change under itself.
    """
    for module in sorted(custom_modules(names)):
        importlib.invalidate_caches()
        if _file(module) is None:
            continue  # `resolve` says so
        paths = _sources(module)
        texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        if any(_IMPORTED.get(name, text) != text for name, text in texts.items()):
            for name, path in paths.items():
                # Python compares whole seconds and sizes, and would take a compiled file of this very second
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
                sys.modules.pop(name, None)
        _IMPORTED.update(texts)


def custom_modules(names: Iterable[str]) -> set[str]:
    """Return the modules of those names that are ``module:attribute``."""
    return {name.partition(":")[0] for name in names if ":" in name}


def source_files(names: Iterable[str]) -> dict[str, Path]:
    """Return module -> source file for every module that names lead to, and for those beside it that it imports."""
    return {name: path for module in sorted(custom_modules(names)) for name, path in _sources(module).items()}


def module_hashes(names: Iterable[str]) -> dict[str, str]:
    """Return the hash of the code of every module of `source_files`."""
    return {module: code_hash(path.read_text(encoding="utf-8")) for module, path in sorted(source_files(names).items())}


def code_hash(text: str) -> str:
    """Return the SHA-256 of a module's code, hex, without its comments, docstrings and layout: they move no number.

    Example:
        >>> code_hash("x = 1  # one") == code_hash('"A docstring."\\nx  =  1'), code_hash("x = 1") == code_hash("x = 2")
        (True, False)
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def check_unchanged(recorded: Mapping[str, str], names: Iterable[str]) -> None:
    """Refuse to train with other code than the run's fingerprint says."""
    now = module_hashes(names)
    for module in sorted(recorded.keys() | now.keys()):
        if recorded.get(module) != now.get(module):
            allowed = f"the code the run was planned with ({recorded.get(module)})"
            remedy = "give the command again: the changed module is another run; this run's folder keeps its source"
            raise ConfigError(f"own_modules.{module}", now.get(module), allowed, remedy)


def keep_sources(names: Iterable[str], folder: Path) -> None:
    """Write the source of every module that names lead to into a folder, as ``<module>.py``; nothing without one."""
    for module, path in source_files(names).items():
        write_text(folder / f"{module}.py", path.read_text(encoding="utf-8"))


def folders(modules: Iterable[str]) -> list[str]:
    """Return the folders in which Python finds modules, for the processes that import them too."""
    paths = {module: path for module in sorted(modules) if (path := _file(module)) is not None}
    depths = {module: module.count(".") + (path.name == "__init__.py") for module, path in paths.items()}
    return list(dict.fromkeys(str(path.parents[depths[module]]) for module, path in paths.items()))


def _sources(module: str) -> dict[str, Path]:
    """Return the source file of a module and of those beside it that it imports, these first."""
    start = _file(module)
    if start is None:
        raise ConfigError("own_modules", module, "a module with a Python source file", f"write {module}.py")
    found: dict[str, Path] = {}
    visited = set()

    def visit(name: str, path: Path | None) -> None:
        if name in visited or path is None or path.parent != start.parent:
            return
        visited.add(name)
        for needed in _imports(name, path):
            visit(needed, _file(needed))
        found[name] = path

    visit(module, start)
    return found


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the names a module's source imports, some of which may be attributes and not modules."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        remedy = f"correct {path.name}: {error}"
        raise ConfigError("own_modules", module, "a module that can be imported", remedy) from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (above, node.module or "")))
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _file(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = found.origin if found is not None else None
    return Path(origin).resolve() if origin and origin.endswith(".py") else None

"""A user's own modules: where their source is, importing it as it is now, and the hash of it that tells runs apart.

A mask, denominator, advantage, gate, row or method of a user's own is named ``module:attribute`` and lives in a module
that the training process imports; nothing is pickled. What such a run computes depends on that module, so the hash of
its code is part of the run's fingerprint, and the run folder keeps its source. The modules that lie beside it and that
it imports count as well; what is installed does not (versions are provenance), and neither do files it reads.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from hpt.errors import ConfigError

#: Modules imported here and the text they were imported from.
_IMPORTED: dict[str, str] = {}


def import_own(module: str, field: str, name: str) -> ModuleType:
    """Return a module of the user's own, imported; what goes wrong is said in a sentence.

    Args:
        module: its dotted name.
        field: the setting being read, for the error.
        name: its value, ``module:attribute``.

    Raises:
        ConfigError: there is no such module, or importing it fails.
    """
    if module in sys.modules:  # the training step comes here for every micro-batch
        return sys.modules[module]
    importlib.invalidate_caches()  # a file written a moment ago is not in Python's list of the folder's files
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            remedy = f"put {module.replace('.', '/')}.py where Python finds it (current folder or PYTHONPATH)"
            raise ConfigError(field, name, "module:attribute with a module that exists", remedy) from error
        raise _broken(field, name, module, error) from error
    except Exception as error:
        raise _broken(field, name, module, error) from error


def _broken(field: str, name: str, module: str, error: Exception) -> ConfigError:
    allowed = "module:attribute with a module that can be imported"
    return ConfigError(field, name, allowed, f"mend {module}: {type(error).__name__}: {error}")


def refresh(names: Iterable[str]) -> None:
    """Import again what changed on disk since it was imported, so that a notebook sees the cell it just wrote.

    Called where settings become a configuration, never while training: a run must not change under itself.

    Args:
        names: ``module:attribute``; others are left alone.
    """
    for module in sorted(own_modules(names)):
        if not _is_there(module):
            continue  # whoever resolves the name says so
        texts = {own: path.read_text(encoding="utf-8") for own, path in _sources(module).items()}
        if any(_IMPORTED.get(own, text) != text for own, text in texts.items()):
            for own, path in _sources(module).items():
                # Python compares whole seconds and sizes, and would take a compiled file of this very second
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
                sys.modules.pop(own, None)
        _IMPORTED.update(texts)


def own_modules(names: Iterable[str]) -> set[str]:
    """Return the modules of those names that are ``module:attribute``.

    Example:
        >>> own_modules(["hpt", "my_idea:gate", "my_idea:ROW"])
        {'my_idea'}
    """
    return {name.partition(":")[0] for name in names if ":" in name}


def module_hashes(names: Iterable[str]) -> dict[str, str]:
    """Return the hash of the code of every module that names lead to, and of the modules beside it that it imports.

    Args:
        names: ``module:attribute``; others are left alone.

    Raises:
        ConfigError: a module without a source file.
    """
    paths = source_files(names)
    return {module: code_hash(paths[module].read_text(encoding="utf-8")) for module in sorted(paths)}


def source_files(names: Iterable[str]) -> dict[str, Path]:
    """Return module -> source file for every module that names lead to, and for those beside it that it imports."""
    return {own: path for module in sorted(own_modules(names)) for own, path in _sources(module).items()}


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
    """Refuse to train with other code than the run's fingerprint says.

    Args:
        recorded: module -> hash, of the run.
        names: that its configuration uses.

    Raises:
        ConfigError: a module changed since the run was planned.
    """
    now = module_hashes(names)
    for module in sorted(recorded.keys() | now.keys()):
        if recorded.get(module) != now.get(module):
            remedy = (
                "give the command again: the changed module is another run; the run folder keeps the source of this"
            )
            allowed = f"the code the run was planned with ({recorded.get(module)})"
            raise ConfigError(f"own_modules.{module}", now.get(module), allowed, remedy)


def keep_sources(names: Iterable[str], folder: Path) -> None:
    """Write the source of every module that names lead to into a folder, as ``<module>.py``; nothing without one."""
    from hpt.files import write_text  # brings pandas, and a refused setting must be told at once

    for module, path in source_files(names).items():
        write_text(folder / f"{module}.py", path.read_text(encoding="utf-8"))


def folders(modules: Iterable[str]) -> list[str]:
    """Return the folders in which Python finds modules, for the processes that import them too."""
    found = []
    for module in sorted(modules):
        path = _file(module)
        if path is not None:
            package = path.name == "__init__.py"
            found.append(str(path.parents[module.count(".") + package]))
    return list(dict.fromkeys(found))


def _sources(module: str) -> dict[str, Path]:
    """Return the source file of a module and of those beside it that it imports, these first."""
    own = _file(module)
    if own is None:
        raise ConfigError("own_modules", module, "a module with a Python source file", f"write {module}.py")
    found: dict[str, Path] = {}
    visited = set()

    def visit(name: str, path: Path | None) -> None:
        if name in visited or path is None or path.parent != own.parent:
            return
        visited.add(name)
        for needed in _imports(name, path):
            visit(needed, _file(needed))
        found[name] = path

    visit(module, own)
    return found


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the names a module's source imports, some of which may be attributes and not modules."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ConfigError(
            "own_modules", module, "a module that can be imported", f"mend {path.name}: {error}"
        ) from error
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


def _is_there(module: str) -> bool:
    importlib.invalidate_caches()
    return _file(module) is not None

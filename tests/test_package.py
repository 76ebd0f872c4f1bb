"""The package as such: it imports quickly and says which version it is."""

import importlib.metadata
import subprocess
import sys

import pytest

import hpt

SLOW_TO_IMPORT = {"torch", "transformers", "vllm", "deepspeed", "pandas", "matplotlib", "scipy"}


def imported_by(statement: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after a statement."""
    code = f"{statement}; import sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["hpt", "hpt.config.run_config", "hpt.methods.methods", "hpt.runs.doctor", "hpt.cli"]
)
def test_import_is_quick(module: str) -> None:
    """``hpt --help``, a refused setting and the doctor must answer at once, also where an engine is broken."""
    assert imported_by(f"import {module}") & SLOW_TO_IMPORT == set()


def test_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("hpt") == hpt.__version__

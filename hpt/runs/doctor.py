"""Does this machine have what hpt needs, and what to type where it does not (``hpt doctor``).

Packages are looked up, not imported: importing vLLM takes seconds and may itself be what is broken.
"""

import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpt.support.memory import GIB, free_memory
from hpt.support.text import few

SETUP = "make setup"
REPAIR = "make -B setup"  # -B: install again although the stamp says it is done
#: GiB that the mini scale wants: one run with trainer, sampler and verifier; its report with checkpoints.
MIN_MEMORY, MIN_DISK = 4.0, 5.0
LOCKS = Path(__file__).resolve().parents[2] / "requirements"
#: Their registry builds are CUDA ones; beside a CPU build of PyTorch, transformers finds and imports them, and fails.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
ENGINES = {"vllm": "the sampler", "deepspeed": "the trainer", "math-verify": "the verifier"}


class Diagnosis(NamedTuple):
    """One line: ``ok``, ``warn`` (works, slower or not as locked) or ``fail``, with what to type."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def diagnose() -> Iterator[Diagnosis]:
    """Judge whether hpt can run on this machine; no ``fail`` among the lines means that every CPU scale can."""
    python, found, cuda, gpu = platform.python_version(), packages(), torch_cuda(), has_gpu()
    is_right = python.startswith("3.11.")
    yield _line("Python", is_right, python, f"{python}; hpt needs 3.11", f"{SETUP} PYTHON=<path of a Python 3.11>")
    torch = found.get("torch")
    if torch is None:
        yield Diagnosis("PyTorch", "fail", "not installed", SETUP)
    elif cuda and not gpu:
        remedy = (
            f'pip uninstall -y torch {" ".join(LEFT_OUT)} && {REPAIR} PIP_ARGS="--extra-index-url <CPU wheel index>"'
        )
        yield Diagnosis("PyTorch", "fail", f"{torch} is built for CUDA {cuda}, and this machine has no GPU", remedy)
    elif gpu and not cuda:
        remedy = "for the scales gpu and full: make setup LOCK=requirements/gpu.lock VENV=<another folder>"
        yield Diagnosis("PyTorch", "warn", f"{torch} is built for CPUs, and this machine has a GPU", remedy)
    else:
        yield Diagnosis("PyTorch", "ok", f"{torch}, built for {f'CUDA {cuda}' if cuda else 'CPU'}")
    present = [name for name in LEFT_OUT if name in found]
    if present and not cuda:  # beside a CUDA PyTorch they are what vLLM asks for
        detail = f"{', '.join(present)}: a CUDA build beside a CPU PyTorch breaks transformers (torchvision::nms)"
        yield Diagnosis("packages left out", "fail", detail, f"pip uninstall -y {' '.join(present)}")
    for name, role in ENGINES.items():
        version = found.get(name) or found.get(f"{name}-cpu")
        yield _line(name, version, f"{version} ({role})", f"{role} is not installed", SETUP)
    lock = LOCKS / ("gpu.lock" if cuda else "cpu.lock")
    locked = read_lock(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    other = [f"{name} {found.get(name, 'missing')} (locked: {version})" for name, version in sorted(locked.items())
             if found.get(name) != version]  # fmt: skip
    if locked:
        yield _line("lock", not other, f"{len(locked)} packages as locked", few(other, 5), REPAIR, "warn")
    else:
        remedy = "install from a clone of the repository"
        yield Diagnosis("lock", "warn", "no requirements/*.lock beside the package", remedy)
    cores = len(os.sched_getaffinity(0))
    remedy = "the mini scale is sized for 2 cores: allow this process another one"
    yield _line("cores", cores >= 2, str(cores), str(cores), remedy, "warn")
    memory, disk = free_memory(), shutil.disk_usage(Path.cwd()).free / GIB
    for name, free, least in (("memory", memory, MIN_MEMORY), ("disk", disk, MIN_DISK)):
        otherwise = f"{free:.1f} GiB free; the mini scale wants {least:.0f}"
        yield _line(name, free >= least, f"{free:.1f} GiB free", otherwise, "free some, or use --scale tiny", "warn")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    there = next((path for path in (cache, *cache.parents) if path.exists()), cache)  # it is made at first use
    remedy = "make it writable, or set XDG_CACHE_HOME to a folder that is"
    yield _line("cache folder", os.access(there, os.W_OK), str(cache), f"{cache} cannot be written to", remedy)
    # what kernels compiled at first use, and vLLM's on CPUs, need of the system
    for name, package, is_there in (
        ("C++ compiler", "g++", any(map(shutil.which, ("g++", "c++", "clang++")))),
        ("Python headers", "python3-dev", (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()),
        ("libnuma", "libnuma1", ctypes.util.find_library("numa")),
    ):
        yield _line(name, is_there, "there", "not found", f"apt-get install {package} (Debian, Ubuntu)")


def _line(name: str, holds: object, detail: str, otherwise: str, remedy: str, worst: str = "fail") -> Diagnosis:
    return Diagnosis(name, "ok", detail) if holds else Diagnosis(name, worst, otherwise, remedy)


def packages() -> dict[str, str]:
    """Return the versions of what is installed, by names as locks write them: ``Math_Verify`` is ``math-verify``."""
    found = (own for own in importlib.metadata.distributions() if own.name)  # a broken one has none
    return {re.sub(r"[-_.]+", "-", own.name).lower(): own.version for own in found}


def torch_cuda() -> str | None:
    """Return which CUDA the installed PyTorch is built for, from its version file alone; None for a CPU build."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).parent / "version.py" if spec and spec.origin else None
    return runpy.run_path(str(version)).get("cuda") if version and version.exists() else None


def has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def read_lock(text: str) -> dict[str, str]:
    """Return name -> version of a lock's ``name==version`` lines.

    Example:
        >>> read_lock("# a comment\\ntorch==2.13.0+cpu\\n    # via hpt\\nPyYAML==6.0.3\\n")
        {'torch': '2.13.0+cpu', 'pyyaml': '6.0.3'}
    """
    pairs = (line.split("==", 1) for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#"))
    return {re.sub(r"[-_.]+", "-", name.strip()).lower(): version.split()[0] for name, version in pairs}

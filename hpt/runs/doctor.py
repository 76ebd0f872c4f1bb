"""Does this machine have what hpt needs, and what to type where it does not (``hpt doctor``).

`read_facts` reads the machine, `diagnose` judges it, so that every verdict can be tested with made-up facts.
Packages are looked up, not imported: importing vLLM takes seconds and may itself be what is broken.
"""

import ctypes.util
import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpt.support.memory import GIB, free_memory
from hpt.support.text import few

SETUP = "make setup"
REPAIR = "make -B setup"  # -B: install again although the stamp says it is done
MIN_MEMORY_GIB = 4.0  # one mini run: trainer, sampler and verifier together
MIN_DISK_GIB = 5.0  # the mini report with its checkpoints
LOCKS = Path(__file__).resolve().parents[2] / "requirements"
# Their registry builds are CUDA ones; beside a CPU build of PyTorch, transformers finds and imports them, and fails.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
ENGINES = {"vllm": "the sampler", "deepspeed": "the trainer", "math-verify": "the verifier"}
#: What kernels compiled at first use, and vLLM's on CPUs, need of the system -> the package of Debian and Ubuntu.
SYSTEM = {"C++ compiler": "g++", "Python headers": "python3-dev", "libnuma": "libnuma1"}

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Facts:
    """What `read_facts` found.

    ``packages`` and ``locked`` are versions by normalised name, of what is installed and of the lock for this PyTorch
    (empty without one); ``torch_cuda`` is None for a CPU build; ``system`` holds those of `SYSTEM` that are there;
    ``cache`` is the folder that models and compiled kernels are kept in, ``cache_writable`` whether they can be.
    """

    python: tuple[int, int, int]
    packages: dict[str, str]
    locked: dict[str, str]
    torch_cuda: str | None
    gpu: bool
    cores: int
    memory_gib: float
    disk_gib: float
    cache: str
    cache_writable: bool
    system: frozenset[str]


@dataclass(frozen=True)
class Diagnosis:
    """One line of the diagnosis: ``ok``, ``warn`` (works, slower or not as locked) or ``fail``, with what to type."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose(facts: Facts) -> list[Diagnosis]:
    """Judge whether hpt can run on a machine; no ``fail`` among the lines means that every CPU scale can."""
    lines: list[Diagnosis] = []

    def expect(holds: object, name: str, detail: str, otherwise: str, remedy: str, worst: Status = "fail") -> None:
        lines.append(Diagnosis(name, "ok", detail) if holds else Diagnosis(name, worst, otherwise, remedy))

    version = ".".join(map(str, facts.python))
    remedy = f"{SETUP} PYTHON=<path of a Python 3.11>"
    expect(facts.python[:2] == (3, 11), "Python", version, f"{version}; hpt needs 3.11", remedy)
    lines.append(_torch(facts))
    if not facts.torch_cuda:  # beside a CUDA PyTorch they are what vLLM asks for
        present = [name for name in LEFT_OUT if name in facts.packages]
        otherwise = f"{', '.join(present)}: a CUDA build beside a CPU PyTorch breaks transformers (torchvision::nms)"
        remedy = f"pip uninstall -y {' '.join(present)}"
        expect(not present, "packages left out", f"none of {', '.join(LEFT_OUT)}", otherwise, remedy)
    for name, role in ENGINES.items():
        version = facts.packages.get(name) or facts.packages.get(f"{name}-cpu")
        expect(version, name, f"{version} ({role})", f"{role} is not installed", SETUP)
    lines.append(_lock(facts))
    cores = f"{facts.cores} core{'s' if facts.cores != 1 else ''}"
    remedy = "the mini scale is sized for 2 cores: allow this process another one"
    expect(facts.cores >= 2, "cores", cores, cores, remedy, "warn")
    for name, free, needed, remedy in (
        ("memory", facts.memory_gib, MIN_MEMORY_GIB, "close other programs, or use --scale tiny"),
        ("disk", facts.disk_gib, MIN_DISK_GIB, "free some space, or run from a folder on a larger disk"),
    ):
        room = f"{free:.1f} GiB free"
        expect(free >= needed, name, room, f"{room}; the mini scale wants {needed:.0f} GiB", remedy, "warn")
    remedy = "make it writable, or set XDG_CACHE_HOME to a folder that is"
    expect(facts.cache_writable, "cache folder", facts.cache, f"{facts.cache} cannot be written to", remedy)
    for name, package in SYSTEM.items():
        remedy = f"apt-get install {package} (Debian, Ubuntu)"
        expect(name in facts.system, name, "there", "not found; kernels compiled at first use need it", remedy)
    return lines


def _torch(facts: Facts) -> Diagnosis:
    version, cuda = facts.packages.get("torch"), facts.torch_cuda
    if version is None:
        return Diagnosis("PyTorch", "fail", "not installed", SETUP)
    if cuda and not facts.gpu:
        remedy = (
            "pip uninstall -y torch torchvision torchaudio torchcodec && "
            f'{REPAIR} PIP_ARGS="--extra-index-url <address of PyTorch\'s CPU wheel index>"'
        )
        return Diagnosis("PyTorch", "fail", f"{version} is built for CUDA {cuda}, and this machine has no GPU", remedy)
    if facts.gpu and not cuda:
        remedy = "for the scales gpu and full: make setup LOCK=requirements/gpu.lock VENV=<another folder>"
        return Diagnosis("PyTorch", "warn", f"{version} is built for CPUs, and this machine has a GPU", remedy)
    return Diagnosis("PyTorch", "ok", f"{version}, built for {f'CUDA {cuda}' if cuda else 'CPU'}")


def _lock(facts: Facts) -> Diagnosis:
    if not facts.locked:
        remedy = "install from a clone of the repository"
        return Diagnosis("lock", "warn", "no requirements/*.lock beside the package", remedy)
    other = [
        f"{name} {facts.packages[name]} (locked: {version})" if name in facts.packages else f"{name} missing"
        for name, version in sorted(facts.locked.items())
        if facts.packages.get(name) != version
    ]
    if not other:
        return Diagnosis("lock", "ok", f"{len(facts.locked)} packages as locked")
    return Diagnosis("lock", "warn", few(other, 5), REPAIR)


def normalise(name: str) -> str:
    """Return a distribution name as PEP 503 writes it: ``Math_Verify`` is ``math-verify``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, str]:
    """Return name -> version of a lock's ``name==version`` lines.

    Example:
        >>> read_lock("# a comment\\ntorch==2.13.0+cpu\\n    # via hpt\\nPyYAML==6.0.3\\n")
        {'torch': '2.13.0+cpu', 'pyyaml': '6.0.3'}
    """
    pairs = (line.split("==", 1) for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#"))
    return {normalise(name.strip()): version.split()[0] for name, version in pairs}


def _torch_cuda() -> str | None:
    # its version file alone is run: importing PyTorch takes seconds, and a broken PyTorch is among what is looked for
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).parent / "version.py" if spec and spec.origin else None
    return runpy.run_path(str(version)).get("cuda") if version and version.exists() else None


def read_facts(folder: Path | None = None) -> Facts:
    """Read the facts about this machine in well under a second; ``folder`` is where runs are written."""
    torch_cuda = _torch_cuda()
    lock = LOCKS / ("gpu.lock" if torch_cuda else "cpu.lock")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    there = next((path for path in (cache, *cache.parents) if path.exists()), cache)  # it is made at first use
    system = {
        "C++ compiler": any(map(shutil.which, ("g++", "c++", "clang++"))),
        "Python headers": (Path(sysconfig.get_paths()["include"]) / "Python.h").exists(),
        "libnuma": ctypes.util.find_library("numa"),
    }
    return Facts(
        python=sys.version_info[:3],
        packages={normalise(d.name): d.version for d in importlib.metadata.distributions() if d.name},
        locked=read_lock(lock.read_text(encoding="utf-8")) if lock.exists() else {},
        torch_cuda=torch_cuda,
        gpu=Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=free_memory(),
        disk_gib=shutil.disk_usage(folder or Path.cwd()).free / GIB,
        cache=str(cache),
        cache_writable=os.access(there, os.W_OK),
        system=frozenset(name for name, found in system.items() if found),
    )

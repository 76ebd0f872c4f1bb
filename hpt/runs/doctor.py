"""Does this machine have what hpt needs, and what to type where it does not (``hpt doctor``).

`inspect_machine` reads the facts, `diagnose` judges them, so that every verdict can be tested with made-up facts.
Packages are looked up, not imported: importing vLLM takes seconds and may itself be what is broken.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

SETUP = "make setup"
REPAIR = "make -B setup"  # -B: install again although the stamp says it is done
MIN_MEMORY_GIB = 4.0  # one mini run: trainer, sampler and verifier together
MIN_DISK_GIB = 5.0  # the mini report with its checkpoints
LOCKS = Path(__file__).resolve().parents[2] / "requirements"
# Their registry builds are CUDA ones; beside a CPU build of PyTorch, transformers finds and imports them, and fails.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
ENGINES = {"vllm": "the sampler", "deepspeed": "the trainer", "math_verify": "the verifier"}
GIB = 2**30


Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Machine:
    """What `inspect_machine` found.

    Attributes:
        python: (major, minor, micro).
        architecture: as ``platform.machine()`` names it.
        packages: normalised distribution name -> version, of everything installed.
        modules: importable top-level modules among the engines and the left-out packages.
        torch_cuda: the CUDA version PyTorch was built for; None for a CPU build or no PyTorch.
        gpu: whether an NVIDIA driver is loaded.
        cores: CPU cores this process may use.
        memory_gib: free memory in GiB, within the container's limit where there is one.
        disk_gib: free disk in GiB where runs are written.
        cpu_flags: instruction sets, as the kernel names them (``avx2``, ``avx512f``).
        compiler: path of a C++ compiler, or None.
        python_headers: whether ``Python.h`` is there for compiled kernels.
        libnuma: whether ``libnuma.so.1`` can be loaded.
        locked: normalised distribution name -> version of the CPU or GPU lock, whichever PyTorch is built for;
            empty where there is no lock beside the package.
        import_errors: module -> last line of the error its import ended with ("" for success); only with ``deep``.
    """

    python: tuple[int, int, int]
    architecture: str
    packages: dict[str, str]
    modules: frozenset[str]
    torch_cuda: str | None
    gpu: bool
    cores: int
    memory_gib: float
    disk_gib: float
    cpu_flags: frozenset[str]
    compiler: str | None
    python_headers: bool
    libnuma: bool
    locked: dict[str, str] = field(default_factory=dict)
    import_errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis: ``ok``, ``warn`` (works, slower or not as locked) or ``fail``, with what to type."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose(machine: Machine) -> list[Finding]:
    """Judge whether hpt can run on a machine; no ``fail`` among the findings means that every CPU scale can.

    Example:
        >>> [finding.name for finding in diagnose(inspect_machine())][:2]
        ['Python', 'PyTorch']
    """
    found: list[Finding] = []

    def expect(
        holds: object, name: str, detail: str, otherwise: str, remedy: str, worst: Literal["warn", "fail"]
    ) -> None:
        found.append(Finding(name, "ok", detail) if holds else Finding(name, worst, otherwise, remedy))

    version = ".".join(map(str, machine.python))
    remedy = f"{SETUP} PYTHON=<path of a Python 3.11>"
    expect(machine.python[:2] == (3, 11), "Python", version, f"{version}; hpt needs 3.11", remedy, "fail")
    found += [_torch(machine)]
    if not machine.torch_cuda:  # beside a CUDA PyTorch they are what vLLM asks for
        present = [name for name in LEFT_OUT if name in machine.modules]
        otherwise = (
            f"{', '.join(present)} installed: a CUDA build beside a CPU PyTorch, which breaks transformers "
            '("operator torchvision::nms does not exist")'
        )
        remedy = f"pip uninstall -y {' '.join(present)}"
        expect(not present, "packages left out", f"none of {', '.join(LEFT_OUT)}", otherwise, remedy, "fail")
    for module, role in ENGINES.items():
        names = (normalise(module), f"{normalise(module)}-cpu")
        version = next((machine.packages[name] for name in names if name in machine.packages), None)
        there = version and module in machine.modules
        expect(there, module, f"{version} ({role})", f"{role} is not installed", SETUP, "fail")
    for module, error in machine.import_errors.items():
        expect(not error, f"import {module}", "works", error, REPAIR, "fail")
    found += [_lock(machine)]
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    remedy = "the mini scale is sized for 2 cores: allow this process another one"
    expect(machine.cores >= 2, "cores", cores, cores, remedy, "warn")
    if not (machine.gpu and machine.torch_cuda):  # else vLLM's CPU kernels are not used
        best = next(
            (text for flag, text in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in machine.cpu_flags), ""
        )
        otherwise = f"neither AVX2 nor AVX-512 ({machine.architecture}); vLLM's CPU kernels need one of them"
        expect(best, "vector instructions", best, otherwise, "use an x86-64 machine with AVX2", "fail")
    for name, free, needed, remedy in (
        ("memory", machine.memory_gib, MIN_MEMORY_GIB, "close other programs, or use --scale tiny"),
        ("disk", machine.disk_gib, MIN_DISK_GIB, "free some space, or run from a folder on a larger disk"),
    ):
        room = f"{free:.1f} GiB free"
        expect(free >= needed, name, room, f"{room}; the mini scale wants {needed:.0f} GiB", remedy, "warn")
    for name, there, reason, package in (
        ("C++ compiler", machine.compiler, "PyTorch and DeepSpeed compile kernels at first use", "g++"),
        ("Python headers", machine.python_headers, "the compiled kernels need them", "python3-dev"),
        ("libnuma", machine.libnuma, "vLLM's CPU kernels link against it", "libnuma1"),
    ):
        remedy = f"apt-get install {package} (Debian, Ubuntu)"
        expect(
            there,
            name,
            str(machine.compiler) if name == "C++ compiler" else "there",
            f"not found; {reason}",
            remedy,
            "fail",
        )
    return found


def _torch(machine: Machine) -> Finding:
    version, cuda = machine.packages.get("torch"), machine.torch_cuda
    if version is None:
        return Finding("PyTorch", "fail", "not installed", SETUP)
    if cuda and not machine.gpu:
        remedy = (
            "pip uninstall -y torch torchvision torchaudio torchcodec && "
            f'{REPAIR} PIP_ARGS="--extra-index-url <address of PyTorch\'s CPU wheel index>"'
        )
        return Finding("PyTorch", "fail", f"{version} is built for CUDA {cuda}, and this machine has no GPU", remedy)
    if machine.gpu and not cuda:
        remedy = "for the scales gpu and full: make setup LOCK=requirements/gpu.lock VENV=<another folder>"
        return Finding("PyTorch", "warn", f"{version} is built for CPUs, and this machine has a GPU", remedy)
    return Finding("PyTorch", "ok", f"{version}, built for {f'CUDA {cuda}' if cuda else 'CPU'}")


def _lock(machine: Machine) -> Finding:
    if not machine.locked:
        remedy = "install from a clone of the repository"
        return Finding("lock", "warn", "no requirements/*.lock beside the package", remedy)
    other = [
        f"{name} {machine.packages[name]} (locked: {version})" if name in machine.packages else f"{name} missing"
        for name, version in sorted(machine.locked.items())
        if machine.packages.get(name) != version
    ]
    if not other:
        return Finding("lock", "ok", f"{len(machine.locked)} packages as locked")
    more = f" and {len(other) - 5} more" if len(other) > 5 else ""
    return Finding("lock", "warn", "; ".join(other[:5]) + more, REPAIR)


def normalise(name: str) -> str:
    """Return a distribution name as PEP 503 writes it.

    Example:
        >>> normalise("Math_Verify")
        'math-verify'
    """
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


def _locked(torch_cuda: str | None) -> dict[str, str]:
    lock = LOCKS / ("gpu.lock" if torch_cuda else "cpu.lock")
    return read_lock(lock.read_text(encoding="utf-8")) if lock.exists() else {}


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _cpu_flags() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def _free_memory() -> int:
    """Bytes of free memory; a container's limit counts, which ``psutil`` alone does not see."""
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def import_error(module: str, timeout_s: float = 300.0) -> str:
    """Import a module in a process of its own and return the last line of the error, "" when it worked.

    Example:
        >>> import_error("json")
        ''
        >>> import_error("no_such_module")
        "ModuleNotFoundError: No module named 'no_such_module'"
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:.0f} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def inspect_machine(folder: Path | None = None, deep: bool = False) -> Machine:
    """Read the facts about this machine; takes well under a second unless ``deep``.

    Args:
        folder: where runs are written (its disk is measured); the working directory by default.
        deep: also import PyTorch, transformers and the engines, each in its own process (about a minute).
    """
    importable = (m for m in (*ENGINES, *LEFT_OUT) if importlib.util.find_spec(m) is not None)
    torch_cuda = _torch_cuda()
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return Machine(
        python=sys.version_info[:3],
        architecture=platform.machine(),
        packages={normalise(d.name): d.version for d in importlib.metadata.distributions() if d.name},
        modules=frozenset(importable),
        torch_cuda=torch_cuda,
        gpu=Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=_free_memory() / GIB,
        disk_gib=shutil.disk_usage(folder or Path.cwd()).free / GIB,
        cpu_flags=_cpu_flags(),
        compiler=next((path for path in map(shutil.which, ("g++", "c++", "clang++")) if path), None),
        python_headers=headers.exists(),
        libnuma=_can_load("libnuma.so.1"),
        locked=_locked(torch_cuda),
        import_errors={m: import_error(m) for m in ("torch", "transformers", *ENGINES)} if deep else {},
    )

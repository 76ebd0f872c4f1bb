"""The facts about a machine that decide what hpt can run on it.

Packages are looked up, not imported: importing vLLM takes seconds and may itself be what is broken.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LOCKS = Path(__file__).resolve().parent.parent / "requirements"
# Their registry builds are CUDA ones; beside a CPU build of PyTorch, transformers finds and imports them, and fails.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
ENGINES = {"vllm": "the sampler", "deepspeed": "the trainer", "math_verify": "the verifier"}
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What `inspect_machine` found; `hpt.doctor.diagnose` judges it.

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


def built_for_cuda(version_module: str) -> str | None:
    """Return the CUDA version written in the text of ``torch/version.py``, or None.

    Example:
        >>> built_for_cuda("__version__ = '2.13.0'\\ncuda: Optional[str] = '13.0'\\n")
        '13.0'
        >>> built_for_cuda("cuda: Optional[str] = None\\n") is None
        True
    """
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)['\"]", version_module, flags=re.MULTILINE)
    return found.group(1) if found else None


def _torch_cuda() -> str | None:
    # Read as text: importing PyTorch takes seconds, and a broken PyTorch is among what is looked for.
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).parent / "version.py"
    return built_for_cuda(version.read_text(encoding="utf-8")) if version.exists() else None


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

"""Does this machine have what hpt needs, and what to type where it does not (``hpt doctor``).

`hpt.machine.inspect_machine` reads the facts, `diagnose` judges them: only the first touches the machine, so every
verdict can be tested with made-up facts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hpt.machine import ENGINES, LEFT_OUT, Machine, inspect_machine, normalise

SETUP = "make setup"
REPAIR = "make -B setup"  # -B: install again although the stamp says it is done
MIN_MEMORY_GIB = 4.0  # one mini run: trainer, sampler and verifier together
MIN_DISK_GIB = 5.0  # the mini report with its checkpoints

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        name: what was looked at.
        status: ``ok``, ``warn`` (works, but slower or not as locked) or ``fail`` (something will not run).
        detail: what was found.
        remedy: what to type or change; empty when ok.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def _python(machine: Machine) -> Iterator[Finding]:
    version = ".".join(map(str, machine.python))
    if machine.python[:2] == (3, 11):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "fail", f"{version}; hpt needs 3.11", f"{SETUP} PYTHON=<path of a Python 3.11>")


def _torch(machine: Machine) -> Iterator[Finding]:
    version = machine.packages.get("torch")
    if version is None:
        yield Finding("PyTorch", "fail", "not installed", SETUP)
    elif machine.torch_cuda and not machine.gpu:
        yield Finding(
            "PyTorch",
            "fail",
            f"{version} is built for CUDA {machine.torch_cuda}, and this machine has no GPU",
            "pip uninstall -y torch torchvision torchaudio torchcodec && "
            f'{REPAIR} PIP_ARGS="--extra-index-url <address of PyTorch\'s CPU wheel index>"',
        )
    elif machine.gpu and not machine.torch_cuda:
        yield Finding(
            "PyTorch",
            "warn",
            f"{version} is built for CPUs, and this machine has a GPU",
            "for the scales gpu and full: make setup LOCK=requirements/gpu.lock VENV=<another folder>",
        )
    else:
        build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "CPU"
        yield Finding("PyTorch", "ok", f"{version}, built for {build}")


def _left_out(machine: Machine) -> Iterator[Finding]:
    if machine.torch_cuda:
        return  # beside a CUDA PyTorch they are what vLLM asks for
    present = [name for name in LEFT_OUT if name in machine.modules]
    if present:
        yield Finding(
            "packages left out",
            "fail",
            f"{', '.join(present)} installed: a CUDA build beside a CPU PyTorch, which breaks transformers "
            '("operator torchvision::nms does not exist")',
            f"pip uninstall -y {' '.join(present)}",
        )
    else:
        yield Finding("packages left out", "ok", f"none of {', '.join(LEFT_OUT)}")


def _engines(machine: Machine) -> Iterator[Finding]:
    for module, role in ENGINES.items():
        names = (normalise(module), f"{normalise(module)}-cpu")
        version = next((machine.packages[name] for name in names if name in machine.packages), None)
        if version is None or module not in machine.modules:
            yield Finding(module, "fail", f"{role} is not installed", SETUP)
        else:
            yield Finding(module, "ok", f"{version} ({role})")


def _imports(machine: Machine) -> Iterator[Finding]:
    for module, error in machine.import_errors.items():
        if error:
            yield Finding(f"import {module}", "fail", error, REPAIR)
        else:
            yield Finding(f"import {module}", "ok", "works")


def _versions(machine: Machine) -> Iterator[Finding]:
    if not machine.locked:
        yield Finding(
            "lock", "warn", "no requirements/*.lock beside the package", "install from a clone of the repository"
        )
        return
    missing = sorted(set(machine.locked) - set(machine.packages))
    other = [
        f"{name} {machine.packages[name]} (locked: {version})"
        for name, version in sorted(machine.locked.items())
        if machine.packages.get(name, version) != version
    ]
    if missing or other:
        shown = [*(f"{name} missing" for name in missing), *other]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        yield Finding("lock", "warn", "; ".join(shown[:5]) + more, REPAIR)
    else:
        yield Finding("lock", "ok", f"{len(machine.locked)} packages as locked")


def _processor(machine: Machine) -> Iterator[Finding]:
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    if machine.cores < 2:
        yield Finding("cores", "warn", cores, "the mini scale is sized for 2 cores: allow this process another one")
    else:
        yield Finding("cores", "ok", cores)
    best = next((name for name in ("avx512f", "avx2") if name in machine.cpu_flags), None)
    if machine.gpu and machine.torch_cuda:
        return  # vLLM's CPU kernels are not used
    if best is None:
        yield Finding(
            "vector instructions",
            "fail",
            f"neither AVX2 nor AVX-512 ({machine.architecture}); vLLM's CPU kernels need one of them",
            "use an x86-64 machine with AVX2",
        )
    else:
        yield Finding("vector instructions", "ok", {"avx512f": "AVX-512", "avx2": "AVX2"}[best])


def _room(machine: Machine) -> Iterator[Finding]:
    for name, free, needed, remedy in (
        ("memory", machine.memory_gib, MIN_MEMORY_GIB, "close other programs, or use --scale tiny"),
        ("disk", machine.disk_gib, MIN_DISK_GIB, "free some space, or run from a folder on a larger disk"),
    ):
        enough = free >= needed
        yield Finding(
            name,
            "ok" if enough else "warn",
            f"{free:.1f} GiB free" + ("" if enough else f"; the mini scale wants {needed:.0f} GiB"),
            "" if enough else remedy,
        )


def _system(machine: Machine) -> Iterator[Finding]:
    headers = "Python.h" if machine.python_headers else None
    libnuma = "libnuma.so.1" if machine.libnuma else None
    parts = (
        ("C++ compiler", machine.compiler, "PyTorch and DeepSpeed compile kernels at first use", "g++"),
        ("Python headers", headers, "the compiled kernels need them", "python3-dev"),
        ("libnuma", libnuma, "vLLM's CPU kernels link against it", "libnuma1"),
    )
    for name, found, reason, package in parts:
        if found:
            yield Finding(name, "ok", found)
        else:
            yield Finding(name, "fail", f"not found; {reason}", f"apt-get install {package} (Debian, Ubuntu)")


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _left_out,
    _engines,
    _imports,
    _versions,
    _processor,
    _room,
    _system,
)


def diagnose(machine: Machine | None = None, deep: bool = False) -> list[Finding]:
    """Judge whether hpt can run here, one finding per thing looked at.

    Args:
        machine: the facts; read from this machine when None.
        deep: also import the engines (only when ``machine`` is None).

    Returns:
        Findings in the order of `CHECKS`; no ``fail`` among them means that every CPU scale can run.

    Example:
        >>> [finding.name for finding in diagnose()][:2]
        ['Python', 'PyTorch']
    """
    facts = inspect_machine(deep=deep) if machine is None else machine
    return [finding for check in CHECKS for finding in check(facts)]

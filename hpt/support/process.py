"""What a child process inherits, and what it computes on."""

import os
import platform
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Set environment variables, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def without_main_script() -> Generator[None]:
    """Have `multiprocessing` start processes that do not import this one's main script.

    It may hold PyTorch, and a script without ``if __name__ == "__main__"`` would begin anew in every one of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # the name or file of what stands here is sent
    try:
        yield
    finally:
        sys.modules["__main__"] = main


#: Has PyTorch and oneDNN compute as a processor without AVX-512 does; both read it once, before they compute at all.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def keep_to_avx2() -> None:
    """Have vLLM, too, take its AVX2 kernels where `AVX2` is set: it asks PyTorch what the processor has.

    To be called before vLLM is imported.
    """
    if os.environ.get("ATEN_CPU_CAPABILITY") == AVX2["ATEN_CPU_CAPABILITY"]:
        import torch

        for name in ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            setattr(torch.cpu, name, lambda: False)


def start_of(pid: int | str) -> str:
    """Return when a process of this machine began, in the kernel's ticks; "" when there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def processor() -> str:
    """Return the kind of processor of this machine, and of its GPUs if it has any; two kinds may round otherwise.

    Nothing is imported for it, and no GPU is touched.
    """
    files = [Path("/proc/cpuinfo"), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    kinds = list[str]()
    for file in files:
        try:
            found = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        kinds += [found[1].strip()] if found else []
    return ", ".join(dict.fromkeys(kinds)) or platform.processor()

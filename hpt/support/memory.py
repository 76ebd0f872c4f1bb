"""Whether there is memory for what is about to be loaded."""

from pathlib import Path

import psutil

from hpt.support.errors import ConfigError

GIB = 2**30


def free_memory() -> float:
    """Return how much memory is free, GiB; a container's limit counts, which ``psutil`` alone does not see."""
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free / GIB


def check_memory(gib: float, what: str) -> None:
    """Refuse to begin what does not fit: the kernel would kill the process halfway, without a word."""
    if (free := free_memory()) < gib:
        remedy = "close other programs, run fewer at a time (--jobs 1), or use a larger machine; nothing was begun"
        raise ConfigError("memory", f"{free:.1f} GiB free", f"at least {gib:.1f} GiB for {what}", remedy)

"""Whether there is memory for what is about to be loaded."""

import psutil

from hpt.support.errors import ConfigError

GIB = 2**30


def check_memory(gib: float, what: str) -> None:
    """Refuse to begin what does not fit: the kernel would kill the process halfway, without a word.

    Raises:
        ConfigError: less memory is free than ``gib`` GiB.
    """
    free = psutil.virtual_memory().available / GIB
    if free < gib:
        remedy = "close other programs, run fewer at a time (--jobs 1), or use a larger machine; nothing was begun"
        raise ConfigError("memory", f"{free:.1f} GiB free", f"at least {gib:.1f} GiB for {what}", remedy)

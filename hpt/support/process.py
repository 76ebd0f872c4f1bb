"""What a child process inherits."""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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

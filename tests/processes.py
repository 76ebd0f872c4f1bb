"""Real processes, with the variables of a launcher and forked from a server that has imported PyTorch and vLLM."""

import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Any

from hpt.training.ranks import free_port
from tests.jobs import forked


def _rank(module: str, arguments: tuple[str, ...], variables: dict[str, str], log: str) -> None:
    """Be ``python -m module arguments`` under these variables."""
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [*variables.get("PYTHONPATH", "").split(os.pathsep)]
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


def start_ranks(ranks: int, folder: Path, module: str, *arguments: str) -> list[ForkServerProcess]:
    """Start ``python -m module arguments`` once per rank; rank r writes ``folder/log-r.txt``."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
             "WORLD_SIZE": str(ranks)}  # fmt: skip
    return [
        forked(_rank, module, arguments, os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
               str(folder / f"log-{rank}.txt"))
        for rank in range(ranks)
    ]  # fmt: skip


def exit_code(process: ForkServerProcess, timeout_s: float) -> int:
    """Wait for its end; negative = the signal that ended it."""
    process.join(timeout_s)
    assert process.exitcode is not None, f"still running after {timeout_s} s"
    return process.exitcode


def wait_for_ranks(processes: list[ForkServerProcess], folder: Path, timeout_s: float) -> None:
    """Wait until all ended well; show the log of one that did not."""
    for rank, process in enumerate(processes):
        assert exit_code(process, timeout_s) == 0, (folder / f"log-{rank}.txt").read_text()[-4000:]


@contextmanager
def killed_at_the_end(processes: list[ForkServerProcess]) -> Iterator[list[ForkServerProcess]]:
    """The processes, of which none outlives the block."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def run_ranks(ranks: int, folder: Path, module: str, *arguments: str, timeout_s: float) -> Path:
    """Start ranks, wait until all ended well, and return ``folder``."""
    with killed_at_the_end(start_ranks(ranks, folder, module, *arguments)) as processes:
        wait_for_ranks(processes, folder, timeout_s)
    return folder


def until(what: Callable[[], Any], timeout_s: float) -> Any:
    """What it returns, as soon as that is true or the time is over."""
    end = time.monotonic() + timeout_s
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def said_until(stream: IO[str], part: str) -> str:
    """The next line of a process that holds ``part``; it is an error if the process ends without it."""
    said = ""
    for line in stream:
        said += line
        if part in line:
            return line
    raise AssertionError(said)

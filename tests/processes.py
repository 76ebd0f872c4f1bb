"""Real processes, as a launcher would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> str:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_ranks(ranks: int, folder: Path, module: str, *arguments: str) -> list[subprocess.Popen[bytes]]:
    """Start ``python -m module arguments`` once per rank; rank r writes ``folder/log-r.txt``."""
    port = free_port()
    processes = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        with open(folder / f"log-{rank}.txt", "wb") as log:
            environment = {**os.environ, **place, **group}
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes


def wait_for_ranks(processes: list[subprocess.Popen[bytes]], folder: Path, timeout_s: float) -> None:
    """Wait until all ended well; show the log of one that did not."""
    for rank, process in enumerate(processes):
        code = process.wait(timeout=timeout_s)
        assert code == 0, (folder / f"log-{rank}.txt").read_text()[-4000:]


@contextmanager
def killed_at_the_end(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, of which none outlives the block."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_ranks(ranks: int, folder: Path, module: str, *arguments: str, timeout_s: float) -> Path:
    """Start ranks, wait until all ended well, and return ``folder``."""
    with killed_at_the_end(start_ranks(ranks, folder, module, *arguments)) as processes:
        wait_for_ranks(processes, folder, timeout_s)
    return folder


def said_until(stream: IO[str] | None, part: str) -> str:
    """The next line of a process that holds ``part``; it is an error if the process ends without it."""
    assert stream is not None
    said = ""
    for line in stream:
        said += line
        if part in line:
            return line
    raise AssertionError(said)

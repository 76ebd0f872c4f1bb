"""Locks of folders: one process works in a folder, others wait and are told for whom.

The operating system holds a lock for a process and lets go when that ends, however it ends. So no lock is ever stale:
the file that a killed process leaves behind still names it, and is free for the next one.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from hpt.errors import HptError

#: Name of a folder's lock file, and how often somebody who waits looks again, seconds.
LOCK, LOOK_S = ".lock", 0.5


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, or held it last; ``done``: and came to the end of what it did there."""

    pid: int
    machine: str
    command: str
    folder: str
    done: bool = False

    @classmethod
    def this(cls) -> "Holder":
        """Return this process."""
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(os.getpid(), os.uname().nodename, command, os.getcwd())

    def __str__(self) -> str:
        elsewhere = "" if self.machine == os.uname().nodename else f" on {self.machine}"
        return f"process {self.pid}{elsewhere} ({self.command[:200]})"

    @property
    def at_work(self) -> bool:
        """Whether it may still hold the folder: it is not done, and not known to have ended."""
        here = self.machine == os.uname().nodename
        return not self.done and not (here and not os.path.exists(f"/proc/{self.pid}"))


def holder(folder: Path) -> Holder | None:
    """Return who holds a folder, or held it last; None when nobody said so.

    Example:
        >>> holder(Path("/nowhere")) is None
        True
    """
    try:
        return Holder(**json.loads((folder / LOCK).read_text()))
    except (OSError, ValueError, TypeError):  # being written this moment, or by a package of another version
        return None


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def locked(folder: Path, wait: bool = True, tell: Callable[[str], None] = _tell) -> Generator[bool]:
    """Hold ``folder`` against other processes.

    Yields whether nothing is left to do: this very command, typed in the same place a second time, has waited here
    until the first one was done.

    Args:
        folder: made if it is not there.
        wait: until whoever holds it is done; otherwise another holder is an error.
        tell: is told for whom, each time that changes; default: standard error.

    Raises:
        HptError: another process holds it and ``wait`` is off, or the folder cannot be written to.
    """
    own, waited = Holder.this(), False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, told = FileLock(folder / LOCK), ""
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waited, other = True, str(holder(folder) or "another process")
                if not wait:
                    raise HptError(f"{folder} is being worked on by {other}; wait for it or stop it") from None
                if other != told:
                    tell(f"{folder} is being worked on by {other}: waiting for it to end; Ctrl-C stops waiting")
                    told = other
                time.sleep(LOOK_S)
    except OSError as error:
        message = f"cannot write {folder / LOCK}: {error.strerror or error}"
        raise HptError(f"{message}; make the folder writable, then run the same command again") from error
    try:
        before = holder(folder)
        _write(folder, own)
        yield waited and before is not None and before == replace(own, pid=before.pid, done=True)
        _write(folder, replace(own, done=True))
    finally:
        lock.release()


def _write(folder: Path, own: Holder) -> None:
    with suppress(OSError):  # a full disk costs the name alone; the folder may be gone, too: `hpt runs remove`
        (folder / LOCK).write_text(json.dumps(asdict(own)) + "\n")

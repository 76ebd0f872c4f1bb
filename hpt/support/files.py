"""Files that are either there, whole, or not there: every write goes to a neighbour first and is renamed into place.

Locks of folders: one process works in a folder, others wait and say for whom. The operating system holds a lock for a
process and lets go when that ends, however it ends, so no lock is ever stale: the file that a killed process leaves
behind still names it, and is free for the next one.
"""

import errno
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from hpt.support.errors import HptError, RecordFault
from hpt.support.process import start_of

if TYPE_CHECKING:  # the command line locks folders and must not wait for pandas
    import pandas as pd

MANIFEST = "manifest.json"
#: Ends of the hidden names of a folder being written, and of one that waits while its successor takes its place.
_HALF, _ASIDE = ".half", ".replaced"
#: Words by which PyTorch's C++ says that it could not write; the last where DeepSpeed made no folder, and said nothing.
_OF_PYTORCH = ("inline_container", "PytorchStreamWriter", "iostream", "write", "Parent directory")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then rename it over ``path``.

    A reader, or a process killed in between, sees the old file or the new one, never a half.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise _cannot_write(path, error) from error


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Name the folder that libraries could not write into, in the words of `write_atomic`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OF_PYTORCH):
            raise
        raise _cannot_write(path, error) from error


def remove_half_written(folder: Path, besides: str = "") -> None:
    """Remove what a process that was killed between writing a file and renaming it left; the caller holds ``folder``.

    The folder ``besides`` in it, into which others may be writing meanwhile, is left alone.
    """
    for stale in folder.rglob(".*.tmp"):
        if stale.relative_to(folder).parts[0] != besides:
            stale.unlink(missing_ok=True)


@contextmanager
def replacing(final: Path) -> Generator[Path]:
    """Yield a neighbour of a folder to fill, then put it in the folder's place; a failure leaves the old folder.

    One process at a time. At no moment is the old folder gone for good: it steps aside under a hidden name, from where
    the next process puts it back if this one is killed.
    """
    with locked(final.parent), writing(final):
        _put_back(final.parent)
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".{final.name[:40]}.", suffix=_HALF, dir=final.parent))
            yield scratch
            scratch.chmod(0o755)
            if final.exists():
                final.rename(final.with_name(f".{final.name}{_ASIDE}"))
            scratch.rename(final)
        finally:
            _put_back(final.parent)


def _put_back(parent: Path) -> None:
    """Put back what stepped aside and was not replaced; remove what was, and what is half-written."""
    for aside in parent.glob(f".*{_ASIDE}"):
        if not (final := parent / aside.name[1:].removesuffix(_ASIDE)).exists():
            aside.rename(final)
    for left in (*parent.glob(f".*{_ASIDE}"), *parent.glob(f".*{_HALF}")):
        shutil.rmtree(left, ignore_errors=True)


def _cannot_write(path: Path, error: Exception) -> HptError:
    why = getattr(error, "strerror", None) or str(error).splitlines()[0]
    message = f"cannot write {path}: {why}; free space or make the folder writable, then run"
    return HptError(f"{message} the same command again: everything finished so far is kept")


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error


def write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table small, since records are committed.

    Statistics and pandas' schema would be most of the file; floats go byte by byte, so that exponents stand together.
    """
    import pandas as pd

    floats = [str(name) for name in frame.columns if pd.api.types.is_float_dtype(frame[name])]
    rest = [str(name) for name in frame.columns if name not in floats]
    write_atomic(path, lambda temporary: frame.to_parquet(
        temporary, index=False, compression="zstd", compression_level=9, write_statistics=False, store_schema=False,
        use_dictionary=rest, column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    ))  # fmt: skip


def read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow has many classes for damaged files
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: Exception) -> RecordFault:
    return RecordFault(f"{path} cannot be read ({error}); remove its folder and run the same command again")


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, pattern: str) -> str:
    """Return one SHA-256 over the names and contents of a folder's files that match ``pattern``."""
    total = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of every file below ``folder`` into its manifest."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): sha256_file(path) for path in files})


def check_manifest(folder: Path, share: Callable[[Sequence[str]], Sequence[str]] = list) -> None:
    """Compare every file of ``folder``, or of those its manifest names the ``share`` of them, with the manifest."""
    manifest: Mapping[str, str] = read_json(folder / MANIFEST)
    for name in share(sorted(manifest)):
        path = folder / name
        if not path.is_file() or sha256_file(path) != manifest[name]:
            raise RecordFault(f"{path} is missing or damaged: it is not what its manifest says was written")


#: Names of a folder's lock files (of the process at work in it, of the command that makes it), and how often somebody
#: who waits looks again, seconds.
LOCK, CLAIM, LOOK_S = ".lock", ".claim", 0.5
#: What a file system without locks answers: NFS without its lock service, Lustre without ``-o flock``, some of FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, or held it last; ``done``: and came to the end of what it did there.

    ``started`` is when the process began, in the kernel's ticks: another process may have its number by now.
    """

    pid: int
    machine: str
    command: str
    folder: str
    done: bool = False
    started: str = ""

    @classmethod
    def this(cls) -> "Holder":
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(os.getpid(), os.uname().nodename, command, os.getcwd(), started=start_of(os.getpid()))

    def __str__(self) -> str:
        return f"process {self.pid}{'' if self.is_here else f' on {self.machine}'} ({self.command[:200]})"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, of which can be told whether it has ended."""
        return self.machine == os.uname().nodename

    @property
    def at_work(self) -> bool:
        """Whether it may still hold the folder: it is not done, and not known to have ended."""
        if self.done or not self.is_here:
            return not self.done
        return start_of(self.pid) == self.started if self.started else os.path.exists(f"/proc/{self.pid}")


class Held(HptError):
    """Another process holds a folder."""


def holder(folder: Path, name: str = LOCK) -> Holder | None:
    """Return who holds a folder, or held it last; None where nobody ever did."""
    try:
        return Holder(**json.loads((folder / name).read_text()))
    except (OSError, ValueError, TypeError):  # being written this moment, or by a package of another version
        return None


@contextmanager
def locked(folder: Path, wait: bool = True, name: str = LOCK) -> Generator[bool]:
    """Hold ``folder``, made if it is not there, against other processes; says on standard error whom it waits for.

    Each ``name`` is a lock of its own; with ``wait`` off, `Held` is raised where another process has it. Yields whether
    nothing is left to do: this very command, typed twice in the same place, has waited until the first one was done.
    """
    this, waited = Holder.this(), False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a lock that is a file's existence would outlive a killed process
        lock, said = FileLock(folder / name, fallback_to_soft=False), ""
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waited, other = True, str(holder(folder, name) or "another process")
                if not wait:
                    raise Held(f"{folder} is being worked on by {other}; wait for it or stop it") from None
                if other != said:
                    message = f"{folder} is being worked on by {other}: waiting for it to end; Ctrl-C stops waiting"
                    print(message, file=sys.stderr, flush=True)
                    said = other
                time.sleep(LOOK_S)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _cannot_write(folder / name, error) from error
        message = f"{folder} cannot be locked: its file system has no locks ({error.strerror}); use another folder"
        remedy = "or mount this one with locks (NFS: with its lock service; Lustre: -o flock)"
        raise HptError(f"{message} (--runs-dir, --reports-dir), {remedy}") from error
    try:
        before = holder(folder, name)
        _write(folder / name, this)
        yield (waited and before is not None  # and did all of what this process was asked to do
               and before == replace(this, pid=before.pid, started=before.started, done=True))  # fmt: skip
        _write(folder / name, replace(this, done=True))
    finally:
        lock.release()


def _write(file: Path, this: Holder) -> None:
    with suppress(OSError):  # a full disk costs the name alone; the folder may be gone, too: `hpt runs remove`
        file.write_text(json.dumps(asdict(this)) + "\n")

"""What a process that reads other people's text may not do: write, read outside the installed packages, connect, start.

math-verify hands pieces of an answer to sympy, which evaluates them as Python. Only digits and operators get that far
(`tests/faults/test_hostile_answers.py` looks at every text compiled); should a later version let more through, this
guard keeps an answer from doing anything but being wrong. It is no sandbox against machine code; none is ever run here.
"""

import os
import sys
from typing import Any

#: Audit events by their prefix: network, processes, code from shared libraries, changed files.
_REFUSED = (
    "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "telnetlib.", "nntplib.", "ssl.",
    "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "pty.", "ctypes.",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.putenv", "os.unsetenv", "os.setxattr", "os.removexattr", "os.chdir", "shutil.", "tempfile.",
    "sqlite3.", "webbrowser.", "os.kill", "signal.pthread_kill",
)  # fmt: skip
#: What was refused since the process began. math-verify swallows the exception and would call the answer wrong, so
#: the caller checks whether this grew.
refusals: list[str] = []
_SAID = 10  # refusals told on stderr; an answer that tries a thousand times must not fill the disk
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def refuse_side_effects() -> None:
    """From now on, refuse this process files, network and other processes, with PermissionError; it cannot be undone.

    Reading stays possible below the installed packages alone, because they import parts of themselves when first used.
    """
    # with an environment built on another's, packages lie in neither of Python's two prefixes
    files = [str(sys.modules[name].__file__) for name in ("math_verify", "sympy") if name in sys.modules]
    folders = {sys.prefix, sys.base_prefix, *(os.path.dirname(os.path.dirname(file)) for file in files)}
    readable = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    sys.dont_write_bytecode = True  # importing is no attempt to write

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return  # a descriptor that is open already
            if not flags & _WRITING and os.path.realpath(os.fsdecode(path)).startswith(readable):
                return
        elif not event.startswith(_REFUSED):
            return
        shown = ascii(arguments[0])[:200] if arguments else ""
        refusals.append(f"refused to a verifier's worker: {event} {shown}")
        if len(refusals) <= _SAID:
            os.write(2, f"{refusals[-1]}\n".encode())
        raise PermissionError(refusals[-1])

    sys.addaudithook(on_event)

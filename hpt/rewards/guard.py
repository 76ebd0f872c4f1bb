"""What a process that reads other people's text may not do: write, read outside the installed packages, connect, start.

math-verify hands pieces of an answer to sympy, which evaluates them as Python. Only digits and operators get that far
(`tests/faults/test_hostile_answers.py` looks at every text compiled); should a later version let more through, this
guard is what keeps an answer from doing anything but being wrong.
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
#: What was refused since the process began; whoever calls untrusted code looks whether it grew.
refusals: list[str] = []
_SAID = 10  # refusals told on stderr; an answer that tries a thousand times must not fill the disk
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def refuse_side_effects() -> None:
    """From now on, refuse this process files, network and other processes; it cannot be undone.

    Reading stays possible below the installed packages alone, because they import parts of themselves when first used.
    What is refused raises PermissionError where it is tried, and is kept in `refusals`: math-verify swallows every
    exception and would call the answer wrong. It is no sandbox against machine code; none is ever run here.

    Example:
        >>> import subprocess, sys
        >>> code = "from hpt.rewards.guard import refuse_side_effects as refuse; refuse(); open('/etc/passwd')"
        >>> subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()[-1]
        "PermissionError: refused to a verifier's worker: open '/etc/passwd'"
    """
    readable = tuple(os.path.realpath(folder) + os.sep for folder in {sys.prefix, sys.base_prefix, *_package_folders()})

    sys.dont_write_bytecode = True  # importing is no attempt to write

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return  # a descriptor that is open already
            name = os.path.realpath(os.fsdecode(path))
            if not flags & _WRITING and name.startswith(readable):
                return
        elif not event.startswith(_REFUSED):
            return
        shown = ascii(arguments[0])[:200] if arguments else ""
        refusals.append(f"refused to a verifier's worker: {event} {shown}")
        if len(refusals) <= _SAID:
            os.write(2, f"{refusals[-1]}\n".encode())
        raise PermissionError(refusals[-1])

    sys.addaudithook(on_event)


def _package_folders() -> set[str]:
    """Where packages in use lie; with an environment built on another's, that is neither of Python's two prefixes."""
    known = (sys.modules.get(name) for name in ("math_verify", "sympy"))
    return {os.path.dirname(os.path.dirname(str(module.__file__))) for module in known if module is not None}

"""What a forked job may do instead of training; each takes the place of `JOB`."""

import os
import signal
import sys
import time
from typing import Any

from hpt.runs import process

#: What their place is.
JOB = "hpt.runs.process._job_process"


def willing(*arguments: Any) -> None:
    """Sleep, and end well when interrupted."""

    def sleep(_: object) -> int:
        print(f"at work {os.getpid()}", flush=True)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("saved", flush=True)
        return 130

    _work(sleep, arguments)


def deaf(*arguments: Any) -> None:
    """Sleep, whatever interrupts."""

    def sleep(_: object) -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"at work {os.getpid()}", flush=True)
        time.sleep(600)
        return 0

    _work(sleep, arguments)


def ending(said: str, code: int, *arguments: Any) -> None:
    """Say something and end."""

    def end(_: object) -> int:
        print(said, file=sys.stderr, flush=True)
        return code

    _work(end, arguments)


def _work(main: Any, arguments: tuple[Any, ...]) -> None:
    process.job_main = main
    process._job_process(*arguments)

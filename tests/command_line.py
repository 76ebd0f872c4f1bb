"""The command line in this process: what a fresh one would say, without the seconds that it takes to start."""

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from hpt.cli import main


@dataclass(frozen=True)
class Said:
    """What a command printed and the code it ended with."""

    returncode: int
    stdout: str
    stderr: str


def hpt(*arguments: object, folder: Path | None = None) -> Said:
    """Type ``hpt ARGUMENTS`` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):  # which it changes for its jobs
        patch.setattr(sys, "argv", ["hpt", *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        if folder is not None:
            patch.chdir(folder)
        with (
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as leaving
        ):  # fmt: skip
            main()
    return Said(int(leaving.value.code or 0), out.getvalue(), err.getvalue())

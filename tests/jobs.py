"""Training jobs in processes of their own, as `hpt.runs.job` runs them, that start quickly and can be killed on cue.

They are forked from a server that has imported everything: of the 25 s of processor time a short job takes, 18 s are
imports. A job says at which of its *moments* it is to be killed: moments are numbered, and are file operations below
its folder and calls of the phases of a step, so the same number is the same moment on every machine.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from hpt.config.run_config import RunConfig
from hpt.runs.folder import CHECKSUMS, TABLES, RunFolder
from hpt.support.files import CLAIM, LOCK, read_json, sha256_file
from hpt.training.metrics import timing_columns

#: (module, class, method): the phases of a step and of what surrounds it.
_PHASES = (
    ("hpt.training.sampler", "Sampler", "sample"),
    ("hpt.training.sampler", "Sampler", "load_weights"),
    ("hpt.rewards.workers", "Verifier", "grade"),
    ("hpt.training.engine", "PolicyEngine", "backward"),
    ("hpt.training.engine", "PolicyEngine", "step"),
    ("hpt.training.engine", "PolicyEngine", "save_state"),
    ("hpt.training.engine", "PolicyEngine", "load_state"),
    ("hpt.training.engine", "PolicyEngine", "save_model"),
)
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Kill:
    """Kill the job ``delay_s`` after its moment number ``moment`` (from 0); or interrupt it there, as Ctrl-C does.

    With a ``part`` only moments whose name holds it are counted.
    """

    moment: int
    delay_s: float = 0.0
    interrupt: bool = False
    part: str = ""


@dataclass(frozen=True)
class Fault:
    """Nothing can be written any more, with the system's error number ``errno``.

    From the first moment or file on whose name holds ``part``; without one, from moment number ``moment``.
    """

    part: str
    errno: int
    moment: int = 0


def _watch(root: str, kill: Kill | Fault | None) -> list[str]:
    """Number the moments of this process; returns the list of their names, which grows."""
    moments: list[str] = []
    failing: list[str] = []

    def fail_from(name: str, raises: bool = True) -> None:
        assert isinstance(kill, Fault)
        if kill.part in name if kill.part else len(moments) >= kill.moment:
            failing.append(name)
        if failing and raises:
            raise OSError(kill.errno, os.strerror(kill.errno))

    def reached(name: str) -> None:
        moments.append(name)
        if isinstance(kill, Fault):
            fail_from(name, raises=False)
        if isinstance(kill, Kill) and kill.part in name and sum(kill.part in own for own in moments) == kill.moment + 1:
            if kill.interrupt:
                signal.raise_signal(signal.SIGINT)
            elif kill.delay_s == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            else:  # a timer whose signal nobody handles ends it as abruptly, also in the middle of a C function
                signal.setitimer(signal.ITIMER_REAL, kill.delay_s)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS or not str(arguments[0]).startswith(root):
            return
        if isinstance(kill, Fault) and _writes(event, arguments):
            fail_from(str(arguments[0]))
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return  # reading; a descriptor opened by os.open has no mode here and is followed by others
        reached(f"{event} {str(arguments[0])[len(root) :]}")

    def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
        flags = arguments[2] if event == "open" else 0
        return event in ("os.mkdir", "os.rename") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def counted(name: str, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            reached(name)
            return genuine(*positional, **named)

        return call

    for module, owner, method in _PHASES:
        own = getattr(__import__(module, fromlist=[owner]), owner)
        setattr(own, method, counted(f"{owner}.{method}", getattr(own, method)))
    sys.addaudithook(on_event)
    return moments


def _work(config: dict[str, Any], root: str, evaluations: tuple[str, ...], log: str, kill: Kill | Fault | None) -> None:
    os.setsid()  # whatever it leaves behind is found by its session
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from hpt.runs import job

    moments = _watch(root, kill)
    spec = Path(f"{log}.job.json")
    spec.write_text(json.dumps({"config": config, "root": root, "evaluations": evaluations}))
    code = job.main([str(spec)])
    if not isinstance(kill, Fault):
        Path(f"{log}.moments.json").write_text(json.dumps(moments))
    sys.stdout.flush()
    os._exit(code)  # what is left to do at exit is the test server's, not the job's


@dataclass
class StartedJob:
    process: ForkServerProcess
    log: Path

    def wait(self, timeout_s: float = 600) -> int:
        """Wait for its end and return its exit code; negative = the signal that ended it."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still running after {timeout_s} s:\n{self.said()}"
        return self.process.exitcode

    def said(self) -> str:
        """The end of what it and those before it printed."""
        return self.log.read_text(errors="replace")[-4000:]

    def moments(self) -> list[str]:
        """Names of the moments of the last job that reached its end."""
        return json.loads(Path(f"{self.log}.moments.json").read_text())

    def left_behind(self, timeout_s: float = 30) -> list[int]:
        """Processes of its session that are there after so long, zombies apart."""
        end = time.monotonic() + timeout_s
        while (left := self._session()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def _session(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # gone since
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found


def forked(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process from the server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpt.runs.preload"])
    # not a daemon: those may not have children, and the verifier's workers are children
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def start_job(
    config: RunConfig, root: Path, evaluations: Sequence[str] = (), kill: Kill | Fault | None = None
) -> StartedJob:
    """Start training ``config`` below ``root`` (or continue), in a process of its own."""
    root.mkdir(parents=True, exist_ok=True)
    log = root / "log.txt"
    process = forked(_work, config.model_dump(mode="json"), str(root), tuple(evaluations), str(log), kill)
    return StartedJob(process, log)


def run_to_end(config: RunConfig, root: Path, evaluations: Sequence[str] = ()) -> RunFolder:
    """Train to the end and return the run's folder."""
    started = start_job(config, root, evaluations)
    assert started.wait() == 0, started.said()
    return only_run(root)


class Undisturbed:
    """A configuration and its run that nobody disturbs, with the names of the moments it passed through."""

    def __init__(self, config: RunConfig, root: Path, evaluations: tuple[str, ...] = ()) -> None:
        self.config, self.root, self.evaluations = config, root, evaluations
        self._job = self.start(root)

    def start(self, root: Path, kill: Kill | Fault | None = None) -> StartedJob:
        """Start the same run, or continue it, below another root."""
        return start_job(self.config, root, self.evaluations, kill)

    def finish(self, root: Path) -> StartedJob:
        """Start it there and leave it alone: the same bits, and nothing half-written."""
        job = self.start(root)
        assert job.wait() == 0, job.said()
        assert_same_results(only_run(root), self.folder)
        assert leftovers(only_run(root)) == []
        return job

    def wait(self) -> "Undisturbed":
        assert self._job.wait() == 0, self._job.said()
        self.folder, self.moments = only_run(self.root), self._job.moments()
        return self


def only_run(root: Path) -> RunFolder:
    (config,) = root.glob("*/*/config.json")
    return RunFolder(config.parent)


def assert_same_results(left: RunFolder, right: RunFolder) -> None:
    """Every bit of records, evaluations and weights is the same; columns that hold times are not compared."""
    assert left.finished
    assert right.finished
    assert left.path.name == right.path.name
    tables = [name for name in TABLES if (left.path / f"{name}.parquet").exists()]
    assert "metrics" in tables
    for name in tables:
        pair = [folder.table(name).drop(columns=timing_columns(), errors="ignore") for folder in (left, right)]
        pd.testing.assert_frame_equal(*pair, check_exact=True, obj=name)
    names = [sorted(path.name for path in folder.path.glob("evaluations/*")) for folder in (left, right)]
    assert names[0] == names[1]
    vouched_for = [sorted(read_json(folder.path / CHECKSUMS)) for folder in (left, right)]
    assert vouched_for[0] == vouched_for[1]
    assert {f"evaluations/{name}" for name in names[0]} <= set(vouched_for[0])
    for name in names[0]:
        frames = [pd.read_parquet(folder.path / "evaluations" / name) for folder in (left, right)]
        pd.testing.assert_frame_equal(*frames, check_exact=True, obj=name)
    models = [{path.name: sha256_file(path) for path in folder.model.iterdir()} for folder in (left, right)]
    assert models[0] == models[1]
    assert "model.safetensors" in models[0]


def metrics_of(folder: RunFolder) -> pd.DataFrame:
    """A run's metrics without its times."""
    return folder.table("metrics").drop(columns=timing_columns(), errors="ignore")


def assert_same_first_step(folder: RunFolder, other: RunFolder, rtol: float, atol: float = 0.0) -> None:
    """What is counted in the first step is equal; the rest agrees to rounding."""
    found, expected = metrics_of(folder).head(1), metrics_of(other).head(1)
    assert list(found.columns) == list(expected.columns)
    counted = [name for name in found.columns if name.endswith(("_count", "_frac", "tokens", "rollouts", "updates"))]
    assert len(counted) >= 10
    pd.testing.assert_frame_equal(found[counted], expected[counted], check_exact=True)
    rest = found.columns.drop([*counted, "check/logprob_gap"])
    pd.testing.assert_frame_equal(found[rest], expected[rest], rtol=rtol, atol=atol)


def leftovers(folder: RunFolder) -> list[str]:
    """Half-written files and folders in a finished run's folder."""
    return [str(path.relative_to(folder.path)) for path in folder.path.rglob(".*") if path.name not in (LOCK, CLAIM)]

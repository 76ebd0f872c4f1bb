"""Runs side by side: which count as finished, what a failed one stops, and what each has for itself."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpt.config.run_config import RunConfig
from hpt.runs import pool, process
from hpt.runs.evaluations import evaluation_key
from hpt.runs.folder import RunFolder, add_checksum, write_checksums
from hpt.runs.job import Job
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import ConfigError, HptError
from hpt.training import ranks

#: How a run ends: called with its folder, it returns the exit code of its process.
Fate = Callable[[RunFolder], int]


@dataclass
class FakeProcess:
    """A process that ends after ``lasts_s`` with what its fate makes of the folder; deaf to interrupts."""

    fates: dict[str, Fate]
    lasts_s: float
    asked: dict[str, Any]
    variables: dict[str, str]
    pid: int = 999999999
    returncode: int | None = None
    started: float = field(default_factory=time.monotonic)
    waited: list[float] = field(default_factory=list)

    def poll(self) -> int | None:
        if self.returncode is None and time.monotonic() - self.started >= self.lasts_s:
            config = RunConfig.model_validate(self.asked["config"])
            fate = self.fates.get(config.policy.name, finish)
            self.returncode = fate(RunFolder.of(config, Path(self.asked["root"])))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.waited.append(timeout or 0.0)
        if timeout is None:
            return -9
        time.sleep(timeout)
        raise subprocess.TimeoutExpired("fake", timeout)

    def send_signal(self, number: int) -> None:
        pass


def finish(folder: RunFolder) -> int:
    folder.set_status("finished", 0)
    write_checksums(folder)
    return 0


def evaluate(folder: RunFolder) -> int:
    """Finish, evaluated on what was asked for."""
    finish(folder)
    (config,) = bases("weak")
    for name in json.loads((folder.path / "job.json").read_text())["evaluations"]:
        path = folder.evaluation_path(name, evaluation_key(config, name)[2])
        path.parent.mkdir(exist_ok=True)
        path.touch()
        add_checksum(folder, path)
    return 0


def end(code: int, said: str = "") -> Fate:
    """End without having finished."""

    def fate(folder: RunFolder) -> int:
        folder.set_status("running", 6)
        with open(folder.path / "log.txt", "a") as log:
            log.write(said)
        return code

    return fate


@dataclass
class Pool:
    """Fake processes in the order they were started; ``fates`` by base, of which all others finish."""

    fates: dict[str, Fate] = field(default_factory=dict)
    lasts_s: float = 0.0
    started: list[FakeProcess] = field(default_factory=list)

    def forked(self, _: object, arguments: tuple[Any, ...]) -> FakeProcess:
        spec, _, variables, *_ = arguments
        return self._start(spec, variables)

    def opened(self, command: list[str], env: dict[str, str], **_: object) -> FakeProcess:
        return self._start(command[-1], env)

    def _start(self, spec: str, variables: dict[str, str]) -> FakeProcess:
        self.started.append(FakeProcess(self.fates, self.lasts_s, json.loads(Path(spec).read_text()), variables))
        return self.started[-1]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Pool:
    found = Pool()
    monkeypatch.setattr(process, "Forked", found.forked)
    monkeypatch.setattr(process.subprocess, "Popen", found.opened)
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    for name in ("CUDA_VISIBLE_DEVICES", ranks.OPTIONS, ranks.RUN_GPUS):
        monkeypatch.delenv(name, raising=False)
    return found


def bases(*names: str) -> list[RunConfig]:
    return [base_config(build_config("hpt", scale="tiny", policy=name)) for name in names]


def seeds(count: int) -> list[RunConfig]:
    """So many runs that start from nothing."""
    (base,) = bases("weak")
    return [base.model_copy(update={"seed": seed}) for seed in range(count)]


def run(root: Path, configs: list[RunConfig], parallel: int | None = 1, **more: Any) -> None:
    pool.run_jobs([Job(config, root, **more) for config in configs], parallel)


# --- what counts as finished -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, -9])
def test_only_the_folder_says_that_a_run_is_finished(code: int, fake: Pool, tmp_path: Path) -> None:
    """DeepSpeed's launcher, killed, passes on exit code 0."""
    fake.fates["weak"] = end(code)
    with pytest.raises(HptError, match=rf"ended with exit code {code}, not finished \(stopped at step 6\)"):
        run(tmp_path, bases("weak"))


def test_an_evaluation_that_was_asked_for_is_part_of_it(fake: Pool, tmp_path: Path) -> None:
    with pytest.raises(HptError, match="not evaluated on contest-a"):
        run(tmp_path, bases("weak"), evaluations=("contest-a",))
    fake.fates["weak"] = evaluate
    run(tmp_path, bases("weak"), evaluations=("contest-a",))


def test_a_run_that_was_finished_when_its_process_failed_is_finished(fake: Pool, tmp_path: Path) -> None:
    """PyTorch and vLLM may crash while a process ends; damage that it was to see to is still a failure."""
    fake.fates["weak"] = lambda folder: finish(folder) - 11
    run(tmp_path, bases("weak"))
    (path,) = tmp_path.glob("*/*/checksums.json")
    path.unlink()
    fake.fates["weak"] = lambda _: -11
    with pytest.raises(HptError, match=r"damaged: checksums\.json"):
        run(tmp_path, bases("weak"))


# --- what a failed run stops -----------------------------------------------------------------------------------------


def test_a_failed_run_stops_none_but_those_that_start_from_it(fake: Pool, tmp_path: Path) -> None:
    fake.fates |= {"weak": end(1, "error: stale weights\n"), "strong": end(2, "error: gate.count = 9\n")}
    waiting = build_config("hpt", scale="tiny", policy="weak", seed=3)
    finished: list[str] = []
    jobs = [Job(config, tmp_path) for config in [*bases("weak", "strong"), waiting, *bases("llama")]]
    with pytest.raises(HptError) as caught:
        pool.run_jobs(jobs, 1, lambda folder: finished.append(folder.path.name.split("-")[1]))
    assert finished == ["llama"]
    assert not isinstance(caught.value, ConfigError)
    said = str(caught.value)
    assert said.startswith("2 runs failed")
    for part in ("error: stale weights", "error: gate.count = 9", "not started", "hpt on weak, seed 3"):
        assert part in said
    assert said.count("its log is") == 2


# --- two commands in one folder ---------------------------------------------------------------------------------------


def both(*commands: Callable[[], object]) -> None:
    """Two commands at once."""
    with ThreadPoolExecutor(len(commands)) as threads:
        for done in [threads.submit(command) for command in commands]:
            done.result(timeout=60)


def test_two_commands_share_the_runs_of_a_folder(fake: Pool, tmp_path: Path) -> None:
    fake.lasts_s = 0.5
    finished: dict[int, list[str]] = {0: [], 1: []}
    jobs = [Job(config, tmp_path) for config in seeds(4)]

    def command(number: int) -> Callable[[], None]:
        return lambda: pool.run_jobs(jobs, 1, lambda folder: finished[number].append(folder.path.name))

    both(command(0), command(1))
    assert len(fake.started) == 4, "each once"
    assert fake.started[1].started - fake.started[0].started < fake.lasts_s, "both at once"
    for names in finished.values():
        assert sorted(names) == sorted(path.name for path in tmp_path.glob("tiny/*"))


def test_two_commands_that_ask_different_things_of_a_run_ask_one_after_the_other(fake: Pool, tmp_path: Path) -> None:
    """Its process finds what its own command wrote into the run's folder."""
    fake.lasts_s, fake.fates["weak"] = 0.5, evaluate
    both(*(partial(run, tmp_path, bases("weak"), evaluations=(name,)) for name in ("contest-a", "contest-b")))
    first, second = fake.started
    assert {*first.asked["evaluations"], *second.asked["evaluations"]} == {"contest-a", "contest-b"}
    assert second.started >= first.started + fake.lasts_s


def test_two_commands_take_different_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1000, 1001})  # that no other command has
    jobs = [Job(config, tmp_path) for config in seeds(1)]
    first, second = process.LocalExecutor(jobs, None), process.LocalExecutor(jobs, None)
    places = [one.take() for one in (first, second)]
    assert None not in places
    assert places[0] != places[1]
    both = process.LocalExecutor([Job(config, tmp_path) for config in seeds(2)], 2)
    assert both.take() != both.take(), "a core that another has is shared before one of its own"
    both.close()
    first.close()
    third = process.LocalExecutor(jobs, None)
    assert third.take() == places[0], "free again"
    second.close()
    third.close()


# --- what a process is asked to do, and where ------------------------------------------------------------------------


def test_what_is_asked_lies_in_the_run_folder_with_what_other_machines_lack(
    fake: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NCCL_SOCKET_IFNAME", "HF_TOKEN", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    run(tmp_path, bases("weak"))
    (spec,) = tmp_path.glob("tiny/pretrain-*/job.json")
    asked = json.loads(spec.read_text())
    assert asked == fake.started[0].asked
    variables = asked["environment"]
    assert (variables["NCCL_SOCKET_IFNAME"], variables["OMP_NUM_THREADS"]) == ("7", "1")
    assert not {"HF_TOKEN", ranks.PARENT} & variables.keys()


def test_a_machine_that_lacks_a_variable_has_it_from_the_job(tmp_path: Path) -> None:
    """Before PyTorch is imported, which reads some of them once; what is set there stays."""
    (config,) = bases("weak")
    asked = {"config": config.model_dump(mode="json"), "root": str(tmp_path), "evaluations": []}
    given = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_DEBUG": "INFO"}
    (tmp_path / "job.json").write_text(json.dumps(asked | {"environment": given}))
    code = (
        "import os, sys; from hpt.runs import job; "
        "job.run_job = lambda _: print(os.environ['GLOO_SOCKET_IFNAME'], os.environ['NCCL_DEBUG'], "
        "'torch' in sys.modules); job.main([sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.json")], capture_output=True, text=True, check=True,
        env=os.environ | {"NCCL_DEBUG": "WARN"},
    )  # fmt: skip
    assert done.stdout.split()[:3] == ["ib0", "WARN", "False"]


@pytest.mark.parametrize(
    ("visible", "run_gpus", "scale", "groups", "ranked"),
    [
        ("0,1,2,3", None, "tiny", ["0", "1", "2", "3"], False),
        ("4,5,7", "1", "tiny", ["4", "5", "7"], False),
        ("0,1,2,3,4", "2", "tiny", ["0,1", "2,3"], True),
        ("0,1,2,3", None, "full", ["0,1,2,3"], True),
        ("3", None, "full", ["3"], False),
    ],
)
def test_runs_side_by_side_have_separate_gpus(
    visible: str, run_gpus: str | None, scale: str, groups: list[str], ranked: bool, fake: Pool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if run_gpus is not None:
        monkeypatch.setenv(ranks.RUN_GPUS, run_gpus)
    commands: list[bool] = []
    command = process.job_command

    def seen(*asked: Any) -> list[str]:
        commands.append(asked[-1] is not None)
        return command(*asked)

    monkeypatch.setattr(process, "job_command", seen)
    fake.lasts_s = 0.5
    most = 0

    def ended(_: RunFolder) -> None:
        nonlocal most
        most = max(most, sum(process.returncode is None for process in fake.started) + 1)

    configs = [config.model_copy(update={"scale": scale}) for config in seeds(2 * len(groups))]
    pool.run_jobs([Job(config, tmp_path) for config in configs], None, ended)
    given = [process.variables["CUDA_VISIBLE_DEVICES"] for process in fake.started]
    assert sorted(given[: len(groups)]) == sorted(groups), "those started first have all there are, each its own"
    assert set(given) == set(groups)
    assert most <= len(groups)
    assert commands == [ranked] * len(configs)


@pytest.mark.parametrize(
    ("visible", "options", "allowed"),
    [("0,1", None, "a number up to 2"), ("", None, "a number up to 0"), ("0,1", "--num_gpus 2", "nothing beside")],
)
def test_gpus_that_are_not_there_are_refused(
    visible: str, options: str | None, allowed: str, fake: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv(ranks.RUN_GPUS, "3")
    if options is not None:
        monkeypatch.setenv(ranks.OPTIONS, options)
    with pytest.raises(ConfigError, match=f"--run-gpus = '3': allowed is {allowed}"):
        run(tmp_path, bases("weak"))
    assert not fake.started


# --- many ------------------------------------------------------------------------------------------------------------


def test_stopping_takes_its_time_once_for_all(fake: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STOP_S", 0.5)
    fake.lasts_s = 1000.0

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seeds(4), parallel=4)
    assert len(fake.started) == 4
    assert 0.4 <= sum(sum(process.waited) for process in fake.started) <= 0.6

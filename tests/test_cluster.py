"""A Ray cluster's mistakes, each a sentence before a run starts, and which machine a run is given; Ray is made up."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpt.config.settings import EngineSettings
from hpt.runs import cluster, pool
from hpt.runs.job import Job
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import ConfigError
from hpt.training.ranks import ADDRESS, EXECUTOR, OPTIONS, RUN_GPUS, RUN_NODES


class RayError(Exception):
    """What Ray raises."""


class RayActorError(RayError):
    """An agent, or its machine, is gone, or it could not begin."""

    actor_init_failed = False


class RayTaskError(RayError):
    """What an agent was asked to do failed there."""

    cause = "cannot write log.txt: No space left on device"


class FakeAgent:
    """Answers what it is given to answer, None to what is not there yet."""

    def __init__(self, start: Any, poll: Any = None) -> None:
        self.start = SimpleNamespace(remote=lambda *_: start)
        self.poll = SimpleNamespace(remote=lambda: poll)


class FakeRay:
    """Machines that answer at once, in this process."""

    def __init__(self, machines: list[dict[str, Any]]) -> None:
        self.machines = machines
        self.facts: Any = {}  # what a machine says otherwise than this one, or its error
        self.running = ""  # what auto finds
        self.util = SimpleNamespace(
            canonicalize_bootstrap_address_or_die=lambda address: self.running if address == "auto" else address,
            scheduling_strategies=SimpleNamespace(
                NodeAffinitySchedulingStrategy=lambda node, soft: node,
                PlacementGroupSchedulingStrategy=lambda group, placement_group_bundle_index: group,
            ),
            placement_group=lambda bundles, strategy: bundles,
            remove_placement_group=lambda group: None,
        )
        self.exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError)
        self.connected = False

    def init(self, address: str, **_: Any) -> None:
        self.connected = True

    def shutdown(self) -> None:
        self.connected = False

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines

    def remote(self, *given: Any, **_: Any) -> Any:
        def ask(mark: str) -> Any:
            return self.facts if isinstance(self.facts, RayError) else cluster.machine_facts(mark) | self.facts

        task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=ask))
        return task if given else lambda function: task

    def wait(self, answers: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        there = [answer for answer in answers if answer is not None]
        return there, [answer for answer in answers if answer is None]

    def get(self, answer: Any, timeout: float = 0) -> Any:
        for one in answer if isinstance(answer, list) else [answer]:
            assert one is not None, "the command would wait"
            if isinstance(one, Exception):
                raise one
        return answer


def machine(cpus: int, gpus: int = 0, address: str = "10.0.0.1") -> dict[str, Any]:
    resources = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
    return {"Alive": True, "NodeID": "1", "NodeManagerHostname": "node-1", "NodeManagerAddress": address,
            "Resources": resources}  # fmt: skip


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    made_up = FakeRay([machine(4), machine(2)])
    monkeypatch.setitem(sys.modules, "ray", made_up)  # type: ignore[arg-type]
    for name in ("ray._private.services", "ray.util.scheduling_strategies"):
        monkeypatch.setitem(sys.modules, name, made_up.util)  # type: ignore[arg-type]
    for name in (ADDRESS, OPTIONS, RUN_GPUS, RUN_NODES, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(EXECUTOR, "ray")
    with socket.create_server(("127.0.0.1", 0)) as head:
        made_up.running = f"127.0.0.1:{head.getsockname()[1]}"
        yield made_up


def refused(root: Path, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        pool.run_jobs([Job(base_config(build_config("hpt", scale="tiny")), root)])
    assert not list(root.glob("tiny/*")), "nothing was started"
    assert not list(root.glob(".seen*"))


def test_an_address_where_nobody_listens(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    for wrong in (address, "ray://somewhere", "6379"):
        monkeypatch.setenv(ADDRESS, wrong)
        refused(tmp_path, rf"--address = '{wrong}'.*host:port of its head.*ray start --head")
    ray.running = address
    monkeypatch.setenv(ADDRESS, "auto")
    refused(tmp_path, "--address = 'auto'")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"versions": cluster.package_versions() | {"torch": "1.0"}}, r"packages of .*torch 1\.0 \(here 2"),
        ({"versions": {}}, r"packages of .*python missing \(here 3"),
        ({"shared": False}, r"--runs-dir.*does not see what is written here"),
        (RayError("ray::machine_facts() (pid=1)\nModuleNotFoundError: No module named 'hpt'"),
         r"machine = 'node-1': allowed is one with hpt's environment.*\(ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_a_machine_that_would_compute_something_else(facts: Any, expected: str, ray: FakeRay, tmp_path: Path) -> None:
    ray.facts = facts
    refused(tmp_path, expected)
    assert not ray.connected


@pytest.mark.parametrize(("mode", "refuses"), [(None, True), ("disabled", True), ("token", False)])
def test_a_public_address_needs_a_token(
    mode: str | None, refuses: bool, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.machines.append(machine(4, address="8.8.8.8"))
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if refuses:
        with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE.*8\.8\.8\.8"):
            cluster.connect()
        assert not ray.connected
    else:
        cluster.connect()


@pytest.mark.parametrize(
    ("machines", "variables", "expected"),
    [
        ([machine(4), machine(2)], {}, (1, {"CPU": 1.0}, 6)),
        ([machine(4, 2), machine(4)], {}, (1, {"CPU": 1.0, "GPU": 1.0}, 2)),
        ([machine(9, 8), machine(9, 5)], {RUN_GPUS: "4"}, (1, {"CPU": 1.0, "GPU": 4.0}, 3)),
        ([machine(3), machine(1), machine(1)], {RUN_NODES: "2"}, (2, {"CPU": 1.0}, 2)),
        ([machine(3), machine(1), machine(1)], {RUN_NODES: "3"}, (3, {"CPU": 1.0}, 1)),
    ],
)
def test_room_for_runs(
    machines: list[dict[str, Any]], variables: dict[str, str], expected: Any, ray: FakeRay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = build_config("hpt", scale="tiny", settings={"engine.threads": 1})
    assert cluster.room_for([config], machines) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({RUN_GPUS: "5"}, "--run-gpus = '5': allowed is a number up to 4, the GPUs of the largest machine"),
        ({RUN_NODES: "3"}, "--run-nodes = '3': allowed is at most 2, the machines with 1 CPU and 1 GPU"),
        ({OPTIONS: "--num_gpus 8"}, "--launcher-args = '--num_gpus 8': allowed is nothing beside --executor ray"),
        ({EXECUTOR: "slurm"}, "--executor = 'slurm': allowed is local or ray"),
        ({EXECUTOR: "local", RUN_NODES: "2"}, "add --executor ray"),
    ],
)
def test_what_no_machine_has_and_no_executor_takes(
    variables: dict[str, str], expected: str, ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.machines = [machine(8, 4), machine(8, 2), machine(8)]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused(tmp_path, expected)


def test_without_ray_it_says_what_to_install(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    refused(tmp_path, r"--executor = 'ray'.*pip install --no-deps ray==")


def executor_on(*places: cluster.RayPlace, free: list[cluster.RayPlace], ray: FakeRay) -> cluster.RayExecutor:
    executor = object.__new__(cluster.RayExecutor)
    executor._places, executor._free, executor._ray, executor._root = list(places), free, ray, Path("/")
    return executor


def test_a_machine_like_the_one_before_is_preferred(ray: FakeRay) -> None:
    places = [cluster.RayPlace(None, [], [], [{"processor": kind}]) for kind in ("first", "second", "second")]
    executor = executor_on(*places, free=list(places), ray=ray)
    taken = [executor.take(kind) for kind in ("second", "third", "", "")]
    assert taken == [places[1], places[0], places[2], None]


def test_a_wrong_machine_that_joins_costs_its_place_alone(ray: FakeRay, capsys: pytest.CaptureFixture[str]) -> None:
    facts = cluster.machine_facts("/")
    no_folder = RayActorError("FileNotFoundError: '/shared'")
    no_folder.actor_init_failed = True
    answers = [facts], [facts | {"versions": {}}], [no_folder]
    good, wrong, silent = (cluster.RayPlace(None, [], answer) for answer in answers)
    executor = executor_on(good, wrong, silent, free=[], ray=ray)
    assert executor.take() is good
    assert executor._places == [good]
    said = capsys.readouterr().err
    assert "one run fewer at a time: packages of" in said
    assert "answers within 300 s (FileNotFoundError" in said
    with pytest.raises(ConfigError, match="packages of"):
        executor_on(cluster.RayPlace(None, [], answers[1]), free=[], ray=ray).take()


@pytest.mark.parametrize(
    ("agent", "code", "lost"),
    [
        (FakeAgent(start=None), None, False),  # still importing what all runs need
        (FakeAgent(start=7, poll=None), None, False),
        (FakeAgent(start=7, poll=3), 3, False),
        (FakeAgent(start=RayTaskError()), 1, False),
        (FakeAgent(start=RayActorError()), -9, True),
        (FakeAgent(start=7, poll=RayActorError()), -9, True),
    ],
)
def test_a_run_on_another_machine_is_not_waited_for(
    agent: FakeAgent, code: int | None, lost: bool, ray: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    work = cluster.RayWork(ray, [agent], ("job.json", "log.txt", EngineSettings(), []), ranks=1)
    work.poll()
    assert (work.poll(), work.lost) == (code, lost)
    if code == 1:
        assert "not started: cannot write log.txt" in capsys.readouterr().err


def test_options_reach_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpt.cli import use_executor

    for name in (EXECUTOR, ADDRESS, RUN_GPUS, RUN_NODES):
        monkeypatch.setenv(name, "before")
    use_executor(executor="ray", run_gpus=2)
    assert [os.environ[name] for name in (EXECUTOR, ADDRESS, RUN_GPUS, RUN_NODES)] == ["ray", "before", "2", "before"]

"""Runs on the machines of a Ray cluster (the optional package ``ray``).

A place is a placement group: a core or GPUs of one machine or, with `--run-nodes`, of several. In each of its bundles
an `Agent` starts a process, and ends with this command, and so does what it started. Ray chooses the machines; nothing
here schedules.
"""

import ipaddress
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hpt.config.run_config import RunConfig
from hpt.config.settings import EngineSettings
from hpt.runs.folder import package_versions
from hpt.runs.job import Job
from hpt.runs.process import Place, RunProcess, cores_for, gpus_of_a_run
from hpt.support.errors import ConfigError, warn
from hpt.support.files import writing
from hpt.support.process import processor
from hpt.training.ranks import ADDRESS, OPTIONS, RUN_GPUS, RUN_NODES, end_with_parent, free_port

#: Seconds that a call to an agent waits for the end of its process, and that every machine has to say what it is.
POLL_S, ANSWER_S = 1.0, 300.0


def machine_facts(shared: str) -> dict[str, Any]:
    """Return what of a machine must be as on all others, whether it sees a file or folder, and what it computes on."""
    sees, kind = Path(shared).exists(), processor()
    return {"machine": os.uname().nodename, "shared": sees, "processor": kind, "versions": package_versions()}


class Agent:
    """Starts the process of one run after the other on a machine of a Ray cluster.

    All of it happens in one thread, and calls wait for each other: a process that is to end with its parent ends with
    the *thread* that started it.
    """

    def __init__(self, folder: str, command: list[str]) -> None:
        end_with_parent(signal.SIGKILL)  # without the node's raylet Ray's worker goes on, unseen by the cluster
        os.chdir(folder)  # where the command was typed: paths may be relative to it
        sys.argv = command  # by which its runs are known to those who wait for them
        (self._core,), self._names = cores_for(1)
        self._process: RunProcess | None = None

    def facts(self, shared: str) -> dict[str, Any]:
        return machine_facts(shared)

    def meeting_point(self) -> tuple[str, int]:
        """Return an address and port of this machine on which ranks can find each other."""
        return import_module("ray").util.get_node_ip_address(), free_port()

    def start(self, spec: str, log: str, engine: EngineSettings, paths: list[str], torchrun: list[str] | None) -> None:
        """Start a run, or this machine's ranks of it."""
        launcher = torchrun and [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "hpt.runs.job", spec]
        self._process = RunProcess(spec, Path(log), engine, paths, Place(self._core), launcher)

    def poll(self) -> int | None:
        """Return the exit code of the process, after a moment; None while it is at work."""
        assert self._process is not None
        self._process.wait(POLL_S)
        return self._process.poll()

    def stop(self, kill: bool) -> None:
        assert self._process is not None
        (self._process.kill if kill else self._process.interrupt)()


@dataclass(eq=False)
class RayPlace:
    """A placement group and the agents in it; ``facts`` of their machines, once they have answered."""

    group: Any
    agents: list[Any]
    answers: list[Any]
    facts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def processor(self) -> str:
        return " and ".join(sorted({facts["processor"] for facts in self.facts}))


class RayExecutor:
    """The machines of a Ray cluster, which must have the folder this command was typed in, and its packages."""

    def __init__(self, jobs: Sequence[Job], parallel: int | None) -> None:
        if OPTIONS in os.environ:
            raise ConfigError("--launcher-args", os.environ[OPTIONS], "nothing beside --executor ray",
                              "say --run-nodes and --run-gpus instead")  # fmt: skip
        self._ray = connect()
        self._root = Path(jobs[0].root if jobs else ".").resolve()
        self._places, self._free = list[RayPlace](), list[RayPlace]()
        try:
            machines = _alive(self._ray)
            self._nodes, self._bundle, self.slots = room_for([job.config for job in jobs], machines)
            self._check([node for node in machines if _fitting(node["Resources"], self._bundle)])
            self.slots = min(parallel or self.slots, len(jobs))
            for _ in range(self.slots):
                self._ask()
        except BaseException:
            self.close()
            raise

    def _check(self, machines: Sequence[Mapping[str, Any]]) -> None:
        """Refuse machines on which a run would fail, or compute something else."""
        ray, mark = self._ray, self._root / f".seen-{uuid.uuid4().hex}"
        on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        ask = ray.remote(num_cpus=0, max_retries=0)(machine_facts)
        with writing(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            answers = [ask.options(scheduling_strategy=on(node["NodeID"], soft=False)).remote(str(mark))
                       for node in machines]  # fmt: skip
            for node, answer in zip(machines, answers, strict=True):
                try:
                    self._check_facts(ray.get(answer, timeout=ANSWER_S))
                except ray.exceptions.RayError as error:
                    raise _without_hpt(node["NodeManagerHostname"], error) from error
        finally:
            mark.unlink()

    def _check_facts(self, facts: dict[str, Any]) -> None:
        here, there = package_versions(), facts["versions"]
        other = [f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
                 for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]  # fmt: skip
        if other:
            raise ConfigError(f"packages of {facts['machine']}", ", ".join(other), "the same on all machines",
                              "run `make setup` there, or take it out of the cluster")  # fmt: skip
        if not facts["shared"]:
            raise ConfigError("--runs-dir", str(self._root), f"a folder that all machines share ({facts['machine']} "
                              "does not see what is written here)", "put it on a shared disk")  # fmt: skip

    def _ask(self) -> None:
        ray, size = self._ray, self._bundle
        inside = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        group = ray.util.placement_group([size] * self._nodes, strategy="STRICT_SPREAD" if self._nodes > 1 else "PACK")
        agents = [
            ray.remote(Agent).options(
                num_cpus=size.get("CPU", 0), num_gpus=size.get("GPU", 0), max_restarts=0,
                scheduling_strategy=inside(group, placement_group_bundle_index=i),
            ).remote(os.getcwd(), sys.argv)
            for i in range(self._nodes)
        ]  # fmt: skip
        self._places.append(RayPlace(group, agents, [agent.facts.remote(str(self._root)) for agent in agents]))

    def take(self, like: str = "") -> RayPlace | None:
        ray = self._ray
        for place in [place for place in self._places if not place.facts]:
            if len(ray.wait(place.answers, num_returns=len(place.answers), timeout=0)[0]) < len(place.answers):
                continue
            try:
                place.facts = ray.get(place.answers)
                for facts in place.facts:  # of a machine that joined the cluster since
                    self._check_facts(facts)
            except ConfigError as error:
                self._do_without(place, error)
            except ray.exceptions.RayError as error:
                if getattr(error, "actor_init_failed", True):
                    self._do_without(place, _without_hpt("one that joined the cluster", error))
                else:  # its machine went before it was used
                    self.give_back(place, lost=True)
            else:
                self._free.append(place)
        chosen = next((place for place in self._free if place.processor == like), (self._free or [None])[0])
        if chosen is not None:
            self._free.remove(chosen)
        return chosen

    def start(self, place: RayPlace, spec: str, log: Path, engine: EngineSettings, paths: Sequence[str]) -> "RayWork":
        asked = str(Path(spec).resolve()), str(log.resolve()), engine, list(paths)
        return RayWork(self._ray, place.agents, asked, int(self._bundle.get("GPU", 1)))

    def give_back(self, place: RayPlace, lost: bool) -> None:
        if not lost:
            self._free.append(place)
            return
        self._dismiss(place)
        self._ask()

    def _do_without(self, place: RayPlace, error: ConfigError) -> None:
        """Go on without a place on which runs would fail; asked for anew, it might be on the same machine again."""
        self._dismiss(place)
        if not self._places:
            raise error
        warn(f"one run fewer at a time: {error}")

    def _dismiss(self, place: RayPlace) -> None:
        self._places.remove(place)
        for agent in place.agents:
            self._ray.kill(agent)
        self._ray.util.remove_placement_group(place.group)

    def close(self) -> None:
        for place in list(self._places):
            self._dismiss(place)
        self._ray.shutdown()


class RayWork:
    """A run at work on the machines of a place: one process, or torchrun on each with a rank per GPU."""

    def __init__(
        self, ray: Any, agents: list[Any], asked: tuple[str, str, EngineSettings, list[str]], ranks: int
    ) -> None:
        self._ray, self._agents, self.ranked = ray, agents, len(agents) * ranks > 1
        self.lost, self._codes = False, list[int | None]([None] * len(agents))
        self._answers, self._started = list[Any](), [False] * len(agents)
        try:
            options = self._torchrun(ranks) if self.ranked else [None] * len(agents)
        except ray.exceptions.RayActorError:
            self.lost = True
        else:  # not waited for: an agent's first run comes after the imports, and others have long begun
            self._answers = [agent.start.remote(*asked, given) for agent, given in zip(agents, options, strict=True)]

    def _torchrun(self, ranks: int) -> list[list[str]]:
        """Options of torchrun for every machine; the first one's holds the store."""
        address, port = self._ray.get(self._agents[0].meeting_point.remote())
        common = [f"--nnodes={len(self._agents)}", f"--nproc-per-node={ranks}", f"--master-addr={address}",
                  f"--master-port={port}", "--max-restarts=0"]  # fmt: skip
        return [[*common, f"--node-rank={i}"] for i in range(len(self._agents))]

    def poll(self) -> int | None:
        for i, answer in enumerate(self._answers):
            if self._codes[i] is not None or self.lost or not self._ray.wait([answer], timeout=0)[0]:
                continue
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayActorError:
                self.lost = True
                continue
            except self._ray.exceptions.RayTaskError as error:  # it could not be started, of which its log says nothing
                warn(f"not started: {error.cause}")
                self._codes[i] = 1
                continue
            if self._started[i]:
                self._codes[i] = said
            else:
                self._started[i] = True
            self._answers[i] = self._agents[i].poll.remote()
        if self.lost:
            return -signal.SIGKILL
        return None if None in self._codes else next((code for code in self._codes if code), 0)

    def wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            time.sleep(POLL_S / 5)

    def interrupt(self) -> None:
        for agent in self._agents:
            agent.stop.remote(kill=False)

    def kill(self) -> None:
        if self.poll() is not None and not self.ranked:
            return
        with suppress(self._ray.exceptions.RayError):
            self._ray.get([agent.stop.remote(kill=True) for agent in self._agents], timeout=10 * POLL_S)


def _without_hpt(machine: str, error: Exception) -> ConfigError:
    why = str(error).strip().splitlines()[-1]
    return ConfigError("machine", machine, f"one with hpt's environment that answers within {ANSWER_S:.0f} s ({why})",
                       "start Ray there with that environment's `ray start`, or take it out")  # fmt: skip


def connect() -> Any:
    """Return Ray, connected to the cluster that `--address` names; refused where it is open to the world."""
    address = os.environ.get(ADDRESS, "auto")
    try:
        ray = import_module("ray")
        import_module("ray.util.scheduling_strategies")
    except ImportError as error:
        raise ConfigError("--executor", "ray", f"local: Ray is not installed ({error})", "type `pip install --no-deps "
                          "ray==2.60.0`, into the environment of every machine") from error  # fmt: skip
    try:
        # auto may be a cluster that is no more: nobody removed the file that names it
        found = import_module("ray._private.services").canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
        ray.init(found, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:  # a ConnectionError is an OSError
        why = str(error).strip().splitlines()[0]
        allowed = f"auto on a machine of a running cluster, or the host:port of its head ({why})"
        remedy = "start one with `ray start --head` and `ray start --address HOST:6379`, see docs/cluster.md"
        raise ConfigError("--address", address, allowed, remedy) from error
    places = [node["NodeManagerAddress"] for node in _alive(ray)]
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode != "token" and any(ipaddress.ip_address(place).is_global for place in places):
        ray.shutdown()
        raise ConfigError("RAY_AUTH_MODE", mode, f"token where Ray listens on a public "
                          f"address ({', '.join(places)}): whoever reaches it may run any code",
                          "start the cluster with RAY_AUTH_MODE=token, or on private addresses")  # fmt: skip
    return ray


def room_for(configs: Sequence[RunConfig], machines: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, float], int]:
    """Return how many machines a run takes, what it takes of each, and how many runs there is room for."""
    gpus = [int(machine["Resources"].get("GPU", 0)) for machine in machines]
    asked, nodes = os.environ.get(RUN_GPUS), os.environ.get(RUN_NODES, "1")
    if asked is not None and not (asked.isdecimal() and 0 < int(asked) <= max(gpus)):
        raise ConfigError("--run-gpus", asked, f"a number up to {max(gpus)}, the GPUs of the largest machine",
                          "ask for fewer, or more machines with --run-nodes")  # fmt: skip
    size = {"CPU": float(max((config.engine.threads for config in configs), default=1))}
    if max(gpus):
        size["GPU"] = float(asked or min(max(gpus), gpus_of_a_run(configs, max(gpus))))
    fits = [_fitting(machine["Resources"], size) for machine in machines]
    # so many groups, each on different machines
    room = max(s for s in range(sum(fits) + 1) if sum(min(fit, s) for fit in fits) >= s * int(nodes))
    if not room:
        what = " and ".join(f"{amount:g} {name}{'s' * (amount > 1)}" for name, amount in size.items())
        raise ConfigError("--run-nodes", nodes, f"at most {sum(fit > 0 for fit in fits)}, the machines with {what}",
                          "ask for fewer")  # fmt: skip
    return int(nodes), size, room


def cluster_room(configs: Sequence[RunConfig]) -> int:
    """Return how many of these runs the cluster has room for at a time; see `connect` and `room_for`."""
    ray = connect()
    try:
        return room_for(configs, _alive(ray))[2]
    finally:
        ray.shutdown()


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _fitting(resources: Mapping[str, float], size: Mapping[str, float]) -> int:
    return int(min(resources.get(name, 0.0) // amount for name, amount in size.items()))

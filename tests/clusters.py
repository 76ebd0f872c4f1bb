"""Two machines of a Ray cluster, on this one: each in namespaces of its own, where the kernel allows that.

They have their own networks, joined by a pair of virtual cards, host names, process ids and temporary folders, and
share all other folders.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hpt.config.run_config import RunConfig
from hpt.support.process import environment
from hpt.training.ranks import ADDRESS, EXECUTOR, free_port
from tests.processes import said_until

#: Ports of a machine's helpers.
_PORTS = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
#: Each process of Ray's imports this by way of jsonschema and takes two seconds to parse a grammar that nobody needs.
_SLOW = "rfc3987_syntax"
#: Runs of argument 1 on, each a configuration, in the folder of argument 1.
_RUNS = """
import sys
from pathlib import Path
from hpt.config.run_config import RunConfig
from hpt.runs.job import Job
from hpt.runs.pool import run_jobs

run_jobs([Job(RunConfig.model_validate_json(text), Path(sys.argv[1])) for text in sys.argv[2:]])
"""
#: How a machine begins, with its temporary folder. The second takes its end of the cable from the first's process; its
#: shell stays, to reap processes whose parents were killed.
_FIRST = """
hostname first; mount -t tmpfs tmpfs "$0"; mount -t tmpfs tmpfs /dev/shm; ip link set lo up
ip link add name cable type veth peer name other; ip addr add 10.77.0.1/24 dev cable; ip link set cable up
exec "$@"
"""
_SECOND = """
hostname second; mount -t tmpfs tmpfs "$0"; mount -t tmpfs tmpfs /dev/shm; ip link set lo up
nsenter --net --target "$1" ip link set other netns $$; ip addr add 10.77.0.2/24 dev other; ip link set other up
shift; unshare --pid --fork --kill-child --mount-proc sh -c '"$@"; exit' sh "$@" || :
exec sleep infinity > /dev/null  # the cable, and with it the first's address, would go with the last process here
"""


@dataclass
class Machines:
    """How a command begins that is typed on the first machine, and each one's raylet."""

    on_first: list[str]
    raylets: list[psutil.Process]

    def start(self, root: Path, configs: Sequence[RunConfig], log: Path) -> subprocess.Popen[bytes]:
        """Start a command on the first machine that makes these runs on both."""
        texts = [config.model_dump_json() for config in configs]
        with open(log, "wb") as file:
            return subprocess.Popen([*self.on_first, sys.executable, "-c", _RUNS, str(root), *texts], stderr=file)

    def run(self, root: Path, configs: Sequence[RunConfig], log: Path) -> str:
        """Make these runs, and return what the command said."""
        code = self.start(root, configs, log).wait()
        assert code == 0, log.read_text()[-4000:]
        return log.read_text()

    def agents(self, machine: int) -> list[psutil.Process]:
        """What its raylet started for a command: agents and all they started."""
        found: list[psutil.Process] = []
        for child in self.raylets[machine].children():
            with suppress(psutil.Error):  # it has ended since
                if "ray::Agent" in " ".join(child.cmdline()):
                    found += [child, *child.children(recursive=True)]
        return found


def number_there(process: psutil.Process) -> int:
    """The number a process has on its own machine."""
    (line,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "NSpid" in line)
    return int(line.split()[-1])


@contextmanager
def two_machines() -> Generator[Machines]:
    """A cluster of a head and another machine with a core each, which commands find in their environment."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install --no-deps ray==2.60.0")
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # the names of its sockets must be short
    modules = Path(tempfile.mkdtemp())
    (modules / f"{_SLOW}.py").write_text("raise ImportError\n")
    path = [str(modules), *(path for path in sys.path if path)]
    first = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--uts", "sh", "-ec", _FIRST, str(folder)]
    trial = "unshare --net --mount --uts --pid --fork --mount-proc true"
    apart = shutil.which("unshare") and not subprocess.call([*first, *trial.split()], stderr=subprocess.DEVNULL)
    addresses = ("10.77.0.1", "10.77.0.2") if apart else ("127.0.0.1", "127.0.0.1")
    port, nodes, on_first = free_port(), list[psutil.Process](), list[str]()
    with environment(
        {"PYTHONPATH": ":".join(path), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",
         EXECUTOR: "ray", ADDRESS: f"{addresses[0]}:{port}"}
    ):  # fmt: skip
        try:
            for left in (2, 1, 0):  # Ray gives a node thirty seconds to start, too little on a busy machine
                try:
                    on_first = _start_both(nodes, first if apart else [], folder, addresses, port)
                    break
                except AssertionError:
                    if not left:
                        raise
                    _end(nodes)
            yield Machines(on_first, [_raylet_of(node) for node in nodes])
        finally:
            _end(nodes)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(modules)


def _start_both(
    nodes: list[psutil.Process], first: list[str], folder: Path, addresses: tuple[str, str], port: int
) -> list[str]:
    """Start the head, in what ``first`` makes, and the other node; returns how a command on the first begins."""
    _start_node(nodes, first, addresses[0], ["--head", "--include-dashboard=false", f"--port={port}",
                                             f"--temp-dir={folder}"])  # fmt: skip
    on_first, second = list[str](), list[str]()
    if first:
        number = str(nodes[0].pid)
        on_first = ["nsenter", "--preserve-credentials", "--user", "--net", "--mount", "--uts", "--target", number]
        second = [*on_first, "unshare", "--net", "--mount", "--uts", "sh", "-ec", _SECOND, str(folder), number]
    _start_node(nodes, second, addresses[1], [f"--address={addresses[0]}:{port}"])
    return on_first


def _end(nodes: list[psutil.Process]) -> None:
    for node in nodes:
        with suppress(psutil.NoSuchProcess):
            for process in [*node.children(recursive=True), node]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    nodes.clear()


def _start_node(nodes: list[psutil.Process], begin: list[str], ip: str, options: list[str]) -> None:
    ports = [f"--{name}-port={free_port()}" for name in _PORTS]
    command = [*begin, str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={ip}",
               "--num-cpus=1", "--object-store-memory=80000000", *ports, *options]  # fmt: skip
    node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    nodes.append(psutil.Process(node.pid))
    said_until(node.stdout, "Ray runtime started")


def _raylet_of(node: psutil.Process) -> psutil.Process:
    """The process that starts all others of a machine."""
    return next(process for process in node.children(recursive=True) if process.name() == "raylet")

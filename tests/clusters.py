"""Two machines of a Ray cluster, on this one."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpt.support.process import environment
from hpt.training.ranks import ADDRESS, EXECUTOR

#: Ports of a node's helpers.
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
#: Each process of Ray's imports this by way of jsonschema and takes two seconds to parse a grammar that nobody needs.
_SLOW = "rfc3987_syntax"


def _free_ports() -> dict[str, int]:
    sockets = {name: socket.socket() for name in _PORTS}
    for one in sockets.values():
        one.bind(("127.0.0.1", 0))
    ports = {name: one.getsockname()[1] for name, one in sockets.items()}
    for one in sockets.values():
        one.close()
    return ports


@contextmanager
def two_machines() -> Iterator[Any]:
    """A cluster of a head and another node with a core each, on which runs are made from here on.

    Yields Ray's ``Cluster``.
    """
    pytest.importorskip("ray", reason="Ray is not installed: pip install --no-deps ray==2.60.0")
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # the names of its sockets must be short
    (folder / f"{_SLOW}.py").write_text("raise ImportError\n")
    found = [path for path in sys.path if path]
    with environment(
        {"PYTHONPATH": ":".join([str(folder), *found]), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ):
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for more in ({"temp_dir": str(folder)}, {}):
                _add_node(cluster, more)
            with environment({EXECUTOR: "ray", ADDRESS: cluster.address}):
                yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _add_node(cluster: Any, more: dict[str, Any]) -> None:
    """Ray gives a node's helpers fifteen seconds to start, which on a busy machine may be too little."""
    for left in (2, 1, 0):
        try:
            cluster.add_node(
                num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, **_free_ports(), **more
            )
        except Exception:
            if not left:
                raise
        else:
            return


def raylet_of(node: Any) -> psutil.Process:
    """The process that starts all others of a node."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)

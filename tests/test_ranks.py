"""Shares of the work, the watch over other ranks, and how jobs are started on several devices."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import MagicMock, call

import psutil
import pytest
from torch.distributed import TCPStore

from hpt.runs.pool import run_jobs
from hpt.support.errors import ConfigError
from hpt.training import ranks
from hpt.training.engine import join
from hpt.training.ranks import Ranks, RankWatch, job_command, launcher_options, sampler_width
from hpt.training.sampler import NO_WEIGHTS, Sampler, _repack_head
from tests.processes import exit_code, killed_at_the_end, start_ranks, until

#: What a launcher sets for the second of two ranks.
LAUNCHED = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of two ranks."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor options for the launcher."""
    monkeypatch.setattr(ranks, "visible_gpus", lambda: 0)
    monkeypatch.delenv(ranks.OPTIONS, raising=False)


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "tensor_parallel"), [(1, 1), (2, 1), (2, 2), (8, 2), (8, 4), (6, 4), (1, 2)])
def test_shares_hold_everything_once_for_every_sampler(count: int, tensor_parallel: int) -> None:
    items = list(range(13))
    width = sampler_width(tensor_parallel, count)
    shares = [Ranks(rank, count).share(items, tensor_parallel) for rank in range(count)]
    for start in range(0, count, width):  # neighbours share one sampler, as vLLM lays its groups
        assert all(share == shares[start] for share in shares[start : start + width])
    assert sorted(item for share in shares[::width] for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- the watch -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    monkeypatch.setattr(ranks, "BEAT_S", 0.05)
    monkeypatch.setattr(ranks, "LOST_S", 3.0)  # longer than a busy machine holds one thread up
    monkeypatch.delenv(ranks.PARENT, raising=False)
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


def watches(store: TCPStore) -> tuple[list[RankWatch], list[list[str]]]:
    """Three watches that write down with what they would have ended their process."""
    said: list[list[str]] = [[], [], []]
    made = []
    for rank in range(3):
        client = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
        made.append(RankWatch(rank, 3, client, said[rank].append))
    for watch in made:
        watch.start()
    return made, said


def test_all_ranks_end_with_the_error_of_the_one_that_failed(store: TCPStore) -> None:
    made, said = watches(store)
    made[1].report("rank 1: the verifier is gone")
    made[2].report("rank 2: connection closed by peer")  # an echo, which comes second
    assert until(lambda: all(said), 20)
    assert said == [["rank 1: the verifier is gone"]] * 3


def test_a_rank_that_vanished_is_named(store: TCPStore) -> None:
    made, said = watches(store)
    assert until(lambda: all(watch.beat > 3 for watch in made), 20)
    made[2].finished.set()  # stops without a word, as a killed process does
    assert until(lambda: bool(said[0] and said[1]), 20)
    assert said[0] == said[1]
    assert said[0][0].startswith("rank 2 was lost: no sign of life")
    assert said[2] == []


def test_a_rank_that_was_stopped_itself_does_not_blame_its_neighbour(store: TCPStore) -> None:
    """Ctrl-Z stops all ranks of a machine; whoever goes on first has not seen the others for long."""
    client = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
    client.set("beat/1", "1")
    watch = RankWatch(0, 2, client)
    assert watch.look() is None
    watch.seen_at = watch.looked_at = time.monotonic() - 100
    assert watch.look() is None
    watch.seen_at = time.monotonic() - 100  # it was not this process that stopped
    assert watch.look() == "rank 1 was lost: no sign of life for 3 s; its log says why"


_JOIN = """
import os, signal, sys
from hpt.runs import job
from hpt.training import ranks

rank, way = sys.argv[1:]
ranks.JOIN_S, ranks.BEAT_S = 5.0 if way == "killed" else 100.0, 0.2
if os.environ["RANK"] == rank and way == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["RANK"] == rank:
    sys.exit(job.main(["nowhere.json"]))
ranks.start_watch()
from hpt.training.engine import join
join()
"""


@pytest.mark.parametrize(
    ("rank", "way", "said"),
    [
        (0, "killed", "rank 0 never joined: no store within 5 s"),
        (1, "killed", "rank 1 never joined: no sign of life for 5 s"),
        (1, "error", "error: rank 1: nowhere.json cannot be read"),  # its machine does not see the folder
    ],
)
def test_a_rank_that_ends_before_it_joins_ends_the_others(rank: int, way: str, said: str, tmp_path: Path) -> None:
    """They would wait for it in the process group, for hours."""
    (tmp_path / "joining.py").write_text(_JOIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        started = start_ranks(2, tmp_path, "joining", str(rank), way)
    with killed_at_the_end(started) as processes:
        assert exit_code(processes[1 - rank], 100) == 1
    assert said in (tmp_path / f"log-{1 - rank}.txt").read_text()


_BLIND = """
import os, sys, time
from hpt.training import ranks

ranks.LOOK_S = ranks.BEAT_S = 1000.0  # the watch never looks again
ranks.start_watch()
while not (ranks._watch._process(0) and ranks._watch._process(1)):
    time.sleep(0.05)
print("met", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_rank_that_is_ended_says_first_which_one_is_gone(killed: bool) -> None:
    """A launcher that finds a rank gone may be quicker than the watch; where none is gone there is nothing to say."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port()), "WORLD_SIZE": "2"}
    made = [subprocess.Popen([sys.executable, "-c", _BLIND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in (0, 1)]  # fmt: skip
    try:
        assert all(process.stdout and process.stdout.readline() == "met\n" for process in made)
        if killed:
            made[1].kill()
            made[1].wait()
        made[0].terminate()
        _, said = made[0].communicate(timeout=60)
        assert made[0].returncode == (1 if killed else -signal.SIGTERM)
        assert ("error: rank 1 was lost: its process was killed" in said) is killed
    finally:
        for process in made:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("set_before", ["", "ib0"])
def test_ranks_meet_on_the_card_that_leads_to_the_first(
    set_before: str, launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on that of the machine's name, which may stand for the loopback: others would not find it there."""
    cards = {one.address: name for name, has in psutil.net_if_addrs().items() for one in has
             if one.family == socket.AF_INET and name != "lo"}  # fmt: skip
    if not cards:
        pytest.skip("this machine has no network card")
    address, card = next(iter(cards.items()))
    first = {"RANK": "0", "MASTER_ADDR": address, "MASTER_PORT": str(ranks.free_port())}
    for name, value in (first | {"GLOO_SOCKET_IFNAME": set_before}).items():
        monkeypatch.setenv(name, value)
    if not set_before:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(ranks, "_watch", None)
    monkeypatch.setattr(RankWatch, "start", lambda self: None)
    ranks.start_watch()
    assert os.environ["GLOO_SOCKET_IFNAME"] == (set_before or card)


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_killed_process_is_missed_long_before_it_is_late(
    reaped: bool, store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "LOST_S", 1000.0)
    made, said = watches(store)
    assert until(lambda: all(watch.processes.get(2) for watch in made[:2]), 20)
    killed = subprocess.Popen(["sleep", "1000"])
    killed.kill()
    if reaped:
        killed.wait()
    for watch in made[:2]:
        watch.processes[2] = f"{killed.pid}@{os.uname().nodename}"
    made[2].finished.set()
    assert until(lambda: bool(said[0] and said[1]), 20)
    assert said[0] == said[1] == ["rank 2 was lost: its process was killed, perhaps for want of memory"]
    killed.wait()


def test_ranks_that_are_done_are_not_missed(store: TCPStore) -> None:
    """The watch may be in the middle of a look when the job ends; its beat would make it one that vanished."""
    made, said = watches(store)
    slow = made[2]
    in_a_look, go_on, look = threading.Event(), threading.Event(), slow.look

    def held() -> str | None:
        in_a_look.set()
        go_on.wait(10)
        return look()

    slow.look = held
    assert in_a_look.wait(10)
    threading.Timer(0.3, go_on.set).start()
    slow.finish()
    assert not slow.is_alive()
    assert slow.store.get("beat/2") == b"finished"
    time.sleep(2 * ranks.LOST_S)
    assert said == [[], [], []]
    for watch in made:
        watch.finish()


def test_a_process_that_ended_with_a_word_is_not_called_lost(store: TCPStore) -> None:
    gone = f"999999999@{os.uname().nodename}"
    made, _ = watches(store)
    assert until(lambda: all(watch.processes.get(0) for watch in made[1:]), 20)
    for watch in made:
        watch.finished.set()
        watch.join()
    made[2].finish()
    made[1].processes[2] = gone
    assert made[1].gone(range(3)) is None
    made[1].processes[0] = gone
    made[0].report("rank 0: the verifier is gone")
    assert made[1].gone(range(3)) is None


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_error_of_ones_own_is_told_at_once_where_nobody_can_be_gone_unseen(
    elsewhere: bool, store: TCPStore, launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = watches(store)
    assert until(lambda: all(len(watch.processes) == 3 for watch in made), 20)
    if elsewhere:
        made[1].processes[2] = "1@another-machine"
    monkeypatch.setattr(ranks, "_watch", made[1])
    start = time.monotonic()
    assert ranks.first_failure("ValueError: no") == "ValueError: no"
    assert (time.monotonic() - start > ranks.LOST_S) is elsewhere
    assert until(lambda: bool(said[0] and said[2]), 20)
    assert said[0] == said[2] == ["rank 1: ValueError: no"]


def test_the_end_of_rank_0_is_noticed_by_its_store(store: TCPStore) -> None:
    watch = RankWatch(1, 2, MagicMock(set=MagicMock(side_effect=ConnectionError)))
    assert watch.look() == "rank 0 was lost: its store does not answer (ConnectionError)"
    watch.finish()  # and says nothing more


def test_ranks_end_with_the_process_that_asked_for_them(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname().nodename
    for parent, gone in (
        (f"{os.getpid()}@{here}", False), ("999999999@another-machine", False), (f"999999999@{here}", True)
    ):  # fmt: skip
        monkeypatch.setenv(ranks.PARENT, parent)
        said = "the process that started this job has ended"
        assert RankWatch(0, 2, store).look() == (said if gone else None)


# --- the launcher ----------------------------------------------------------------------------------------------------


def test_the_launcher_takes_a_free_port_or_the_users_options(monkeypatch: pytest.MonkeyPatch) -> None:
    words = job_command("hpt.runs.job", ["job.json"], [])
    assert words[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert words[-4:] == ["--no_local_rank", "--module", "hpt.runs.job", "job.json"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(words[words.index("--master_port") + 1])))  # free
    monkeypatch.setenv(ranks.OPTIONS, "--hostfile 'my hosts' --include worker-0:0,1 --master_port 29501")
    options = launcher_options()
    assert options == ["--hostfile", "my hosts", "--include", "worker-0:0,1", "--master_port", "29501"]
    assert job_command("hpt.runs.job", ["job.json"], options)[3:-4] == options


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("8", "options of `deepspeed`"),
        ("--num_gpus '8", "No closing quotation"),
        ("--num_gpus 8 --module", "other options than --module"),
        ("--bind_cores_to_rank", "a number of processes"),
        ("--hostfile hosts --launcher SLURM", "another --launcher"),
        ("--num_nodes 2 --launcher=slurm", "another --launcher"),
    ],
)
def test_options_that_cannot_work_are_refused(text: str, allowed: str, no_gpus: None) -> None:
    with pytest.raises(ConfigError, match="--launcher-args") as caught:
        launcher_options(text)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-ab12", 1)])
def test_gpus_are_counted_as_they_are_visible(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ranks.visible_gpus() == count


# --- what a launcher left behind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [["RANK"], ["WORLD_SIZE"], ["LOCAL_RANK"], ["MASTER_ADDR", "MASTER_PORT"],
                                  ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]])  # fmt: skip
def test_a_launchers_variables_are_all_there_or_none(
    left: list[str], no_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert ranks.launched_ranks() == 1
    for name in left:
        monkeypatch.setenv(name, LAUNCHED[name])
    missing = ", ".join(name for name in LAUNCHED if name not in left)
    for use in (join, ranks.launched_rank, lambda: run_jobs([])):
        with pytest.raises(ConfigError) as caught:
            use()
        assert caught.value.field == ", ".join(left)
        assert f"together with {missing}" in caught.value.allowed
        assert f"`unset {' '.join(left)}`" in caught.value.remedy


@pytest.mark.parametrize(("name", "value"), [("RANK", "two"), ("RANK", "2"), ("WORLD_SIZE", ""), ("WORLD_SIZE", "0")])
def test_a_rank_is_one_of_the_ranks(name: str, value: str, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ranks.launched_rank(), ranks.launched_ranks()) == (1, 2)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^RANK, WORLD_SIZE = .*allowed is a rank from 0 to WORLD_SIZE - 1"):
        join()


def test_a_command_is_no_rank_itself(launched: None, no_gpus: None) -> None:
    """Its job would take itself for one of eight, and wait for hours for the other seven."""
    with pytest.raises(ConfigError, match=r"RANK.*allowed is unset for hpt's own commands.*--launcher-args"):
        run_jobs([])


# --- sleep mode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sleeps", [True, False])
def test_the_sampler_sleeps_until_it_is_given_weights(sleeps: bool) -> None:
    sampler, engine = Sampler.__new__(Sampler), MagicMock()
    sampler._sleeps, sampler._asleep, sampler._engine, sampler.version = sleeps, False, engine, 1
    sampler.sleep()
    sampler.sleep()
    assert sampler.version == (NO_WEIGHTS if sleeps else 1)  # so that the trainer knows that it has to move some
    sampler.load_weights([], 1)
    sampler.load_weights([], 2)
    load = [call.collective_rpc("reload_weights", kwargs={"weights_iterator": []}), call.apply_model(_repack_head)]
    woken = [call.sleep(level=2), call.wake_up(tags=["weights"]), *load, call.wake_up(tags=["kv_cache"])]
    assert engine.mock_calls == [*(woken if sleeps else load), *load]

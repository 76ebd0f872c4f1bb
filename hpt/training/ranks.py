"""The processes of one job: how they start, who this one is, what share of the work is its own, and if one is lost.

A job is a process alone, or several, on a device each, that DeepSpeed's launcher starts with the user's options.

A rank that fails or vanishes would leave the others waiting in a collective operation until a time limit of half an
hour. So every rank gives a sign of life every few seconds and looks for its neighbour's; one that fails says so first,
and all others end with that rank's error. A rank killed without a word is missed at once by those on its machine. The
watch starts before the process group does: a rank that never joins is missed too.
"""

import ctypes
import datetime
import math
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hpt.support.errors import ConfigError, HptError
from hpt.support.process import start_of

Item = TypeVar("Item")

#: Seconds between two signs of life, and without any until a rank counts as lost.
BEAT_S, LOST_S = 2.0, 40.0
#: Seconds until a rank that gave no sign of life at all counts as lost: it imports PyTorch first, from a slow disk.
JOIN_S = 600.0
#: Seconds between two looks at the processes of the other ranks on this machine: DeepSpeed's launcher looks every
#: second, and ends all without saying which rank was the first.
LOOK_S = 0.25
#: Longest wait in a collective operation: losses are noticed by the watch, and a rank may download a model meanwhile.
WAIT = datetime.timedelta(hours=6)
#: Process that asked for this job and the machine it runs on: ranks end with it (see `hpt.runs.pool`).
PARENT = "HPT_PARENT"
#: What a launcher sets for every process it starts: all of these or, without one, none.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """This process among the ranks of its job, counted from 0.

    Example:
        >>> Ranks(1, 2).share(["a", "b", "c"])
        ['b']
        >>> Ranks(1, 2).share(["a", "b", "c"], tensor_parallel=2)
        ['a', 'b', 'c']
    """

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    def share(self, items: Sequence[Item], tensor_parallel: int = 1) -> Sequence[Item]:
        """Return this rank's share of ``items``; ranks that share one sampler's weights have the same share."""
        width = sampler_width(tensor_parallel, self.ranks)
        return items[self.rank // width :: self.ranks // width]

    def gather_shares(self, own: list[Item], tensor_parallel: int = 1) -> list[Item]:
        """Return what all shares came to, on every rank; of ranks with the same share the first one speaks."""
        first = self.rank % sampler_width(tensor_parallel, self.ranks) == 0
        return self.gather(own if first else [])

    def gather(self, own: list[Item]) -> list[Item]:
        """Return the concatenation of every rank's list, in order of ranks, on every rank."""
        if self.ranks == 1:
            return own
        import torch

        lists: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(lists, own)
        return [item for part in lists for item in part]

    def barrier(self) -> None:
        if self.ranks > 1:
            import torch

            torch.distributed.barrier()


def sampler_width(tensor_parallel: int, ranks: int) -> int:
    """Return how many ranks share one sampler: ``tensor_parallel``, or what of it divides the number of ranks.

    A run that was started on eight ranks goes on with one, which then holds the sampler alone.

    Example:
        >>> sampler_width(2, 8), sampler_width(2, 1), sampler_width(4, 6)
        (2, 1, 2)
    """
    return math.gcd(tensor_parallel, ranks)


def launched() -> bool:
    """Return whether a launcher started this process; what one left behind in a shell would make it wait for others.

    Raises:
        ConfigError: some of `LAUNCHED` are set and others are not, or the rank is none of the ranks.
    """
    given = {name: os.environ[name] for name in LAUNCHED if name in os.environ}
    if given in ({}, {"LOCAL_RANK": "0"}):  # the latter stays where this process made a group of its own
        return False
    remedy = f"without a launcher type `unset {' '.join(given)}`"
    if missing := [name for name in LAUNCHED if name not in given]:
        allowed = f"what a launcher sets, together with {', '.join(missing)}"
        raise ConfigError(", ".join(given), ", ".join(given.values()), allowed, remedy)
    rank, ranks = given["RANK"], given["WORLD_SIZE"]
    if not (rank.isdecimal() and ranks.isdecimal() and int(rank) < int(ranks)):
        raise ConfigError("RANK, WORLD_SIZE", f"{rank}, {ranks}", "a rank from 0 to WORLD_SIZE - 1", remedy)
    return True


def launched_rank() -> int:
    """Return the rank a launcher gave to this process; 0 without one."""
    return int(os.environ["RANK"]) if launched() else 0


def launched_ranks() -> int:
    """Return the number of ranks a launcher started; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


class RankWatch(threading.Thread):
    """Ends this process when another rank failed or gives no sign of life.

    ``store`` is a client of its own of the ranks' key-value store: the process group's may wait for minutes. ``end``
    ends the process with a message.
    """

    def __init__(self, rank: int, ranks: int, store: Any, end: Callable[[str], None] | None = None) -> None:
        super().__init__(name="rank watch", daemon=True)
        self.rank, self.ranks, self.neighbour, self.store = rank, ranks, (rank + 1) % ranks, store
        self.processes: dict[int, str] = {}
        self.end = end or _end
        self.beat, self.seen = 0, ""
        self.seen_at = self.looked_at = time.monotonic()
        self.finished = threading.Event()

    def run(self) -> None:
        """Look every few seconds, and at the processes of this machine more often."""
        due = 0.0
        while not self.finished.wait(min(LOOK_S, BEAT_S)):
            now = time.monotonic()
            message = None
            if now >= due:
                message, due = self.look(), now + BEAT_S
            self._process(0)  # known from now on, also when the store is gone
            # not rank 0, which has the store: without it, who is done and gone cannot be told from who was killed
            message = message or self.gone(range(1, self.ranks))
            if message and not self.finished.is_set():
                self.end(message)
                return

    def look(self) -> str | None:
        """Give a sign of life; return what is wrong with another rank, if anything is."""
        if _parent_is_gone():
            return "the process that started this job has ended"
        now = time.monotonic()
        if now - self.looked_at > LOST_S / 2:  # this process was stopped itself (Ctrl-Z), and its neighbour with it
            self.seen_at = now
        self.looked_at = now
        try:
            self.beat += 1
            self.store.set(f"beat/{self.rank}", str(self.beat))
            if self.store.check(["failure"]):
                return self.store.get("failure").decode()
            key = f"beat/{self.neighbour}"
            beat = self.store.get(key).decode() if self.store.check([key]) else ""
        except Exception as error:  # the store is in rank 0: whatever it says when it is gone, rank 0 is gone
            return f"rank 0 was lost: its store does not answer ({type(error).__name__})"
        if beat != self.seen or beat == "finished":
            self.seen, self.seen_at = beat, now
        limit, lost = (LOST_S, "was lost") if self.seen else (JOIN_S, "never joined")
        if now - self.seen_at > limit:
            return self.report(f"rank {self.neighbour} {lost}: no sign of life for {limit:.0f} s; its log says why")
        return None

    def gone(self, others: Iterable[int]) -> str | None:
        """Return which of ``others`` is a process of this machine that ended without a word, if one is."""
        for rank in others:
            if rank != self.rank and not _is_running(self._process(rank)) and not self._said_something(rank):
                return self.report(f"rank {rank} was lost: its process was killed, perhaps for want of memory")
        return None

    def all_here(self) -> bool:
        """Whether every rank is known to be on this machine."""
        return all(self._process(rank).endswith(f"@{os.uname().nodename}") for rank in range(self.ranks))

    def _process(self, rank: int) -> str:
        """``process@machine`` of a rank; "" while it is not known."""
        try:
            if not self.processes:  # its own first, so that a reader has written, too
                self.processes[self.rank] = f"{os.getpid()}@{os.uname().nodename}"
                self.store.set(f"process/{self.rank}", self.processes[self.rank])
            if rank not in self.processes and self.store.check([f"process/{rank}"]):
                self.processes[rank] = self.store.get(f"process/{rank}").decode()
        except Exception:  # `look` says what it means that the store is gone
            pass
        return self.processes.get(rank, "")

    def _said_something(self, rank: int) -> bool:
        """Whether a rank that is gone was done, or any rank has said why it failed."""
        try:
            if self.store.check(["failure"]):
                return True
            return self.store.check([f"beat/{rank}"]) and self.store.get(f"beat/{rank}") == b"finished"
        except Exception:  # rank 0 is gone, and cannot say
            return rank != 0

    def report(self, message: str) -> str:
        """Tell all ranks what failed; returns the message that was first."""
        try:
            return self.store.compare_set("failure", "", message).decode() or message
        except Exception:  # rank 0 went first
            return message

    def finish(self) -> None:
        """Stop watching: this rank is done."""
        self.finished.set()
        if self.is_alive() and self is not threading.current_thread():
            self.join()  # a beat on its way would come after the last word
        try:
            self.store.set(f"beat/{self.rank}", "finished")
            # `set` does not wait for the store: ending before it has read this would look like a process killed
            self.store.get(f"beat/{self.rank}")
        except Exception:  # rank 0 may be done and gone
            return
        end = time.monotonic() + LOST_S  # the store ends with rank 0, and others may still look at it
        while self.rank == 0 and time.monotonic() < end and not all(map(self._said_something, range(1, self.ranks))):
            time.sleep(BEAT_S / 20)


_watch: RankWatch | None = None
#: Where the last words of a rank go.
_errors = 2


def start_watch() -> None:
    """Watch over the ranks from here on; nothing to do when there is one, or when it is done already.

    Rank 0 opens the store at the launcher's address, unless torchrun has, and the process group uses it too.

    Raises:
        HptError: rank 0 did not open it in time, or cannot.
    """
    global _watch, _errors
    if _watch is not None or launched_ranks() == 1:
        return
    _errors = os.dup(2)  # while DeepSpeed tries the compiler, its descriptor 2 leads to a file that it removes
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    opens = launched_rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = datetime.timedelta(seconds=JOIN_S)
    try:
        store = TCPStore(*place, is_master=opens, multi_tenant=opens, wait_for_workers=False, timeout=wait)
    except RuntimeError as error:
        who = "this rank cannot open the store" if opens else f"rank 0 never joined: no store within {JOIN_S:.0f} s"
        why = str(error).splitlines()[0]
        raise HptError(f"{who} at {place[0]}:{place[1]} ({why}); its log, or the launcher's, says why") from error
    store.set_timeout(datetime.timedelta(seconds=LOST_S))
    if card := _card_towards(place[0]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
    _watch = RankWatch(launched_rank(), launched_ranks(), store)
    _watch.start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, partial(_terminated, os.getpid()))


def _terminated(owner: int, *signal_and_frame: object) -> None:
    """Say which rank is gone before this one ends: a launcher that finds one gone may be quicker than the watch.

    Forked processes have another ``owner``: they inherit this and say nothing.
    """
    watch = _watch if owner == os.getpid() else None
    if watch is not None and not watch.finished.is_set() and (message := watch.gone(range(watch.ranks))):
        watch.end(message)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _card_towards(address: str) -> str | None:
    """The network card by which a machine is reached. gloo would take that of this machine's name, which on Debian
    is the loopback's, where no other machine finds it."""
    import psutil

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    if own.startswith("127."):  # all ranks are here
        return None
    return next((name for name, has in psutil.net_if_addrs().items() if own in [one.address for one in has]), None)


def finish_watch() -> None:
    """Stop watching: the job is done on every rank."""
    if _watch is not None:
        _watch.finish()


def report_failure(message: str) -> None:
    """Tell the other ranks why this one ends, and give them the time to read it; nothing to do when there are none."""
    if _watch is None:
        return
    _watch.finished.set()  # this process ends by itself, with an exit code of its own
    _watch.report(f"rank {launched_rank()}: {message}")
    # the others read it first: the store ends with rank 0, and a launcher ends all ranks when it finds one gone
    time.sleep(2 * BEAT_S)


def first_failure(own: str) -> str:
    """Return why the job failed, when this rank's own error may only be the echo of another rank's.

    A rank that was killed says nothing itself: those on its machine see that it is gone, and where all are on one that
    is the matter of a moment; else its neighbour notices, which takes up to `LOST_S`.
    """
    if _watch is None:
        return own
    end = time.monotonic() + (2 * BEAT_S if _watch.all_here() else LOST_S + 3 * BEAT_S)
    while time.monotonic() < end and _watch.is_alive():
        if message := _watch.gone(range(_watch.ranks)):
            return message
        time.sleep(LOOK_S)  # the watch ends this process as soon as it knows
    report_failure(own)
    return own


#: Parent of this process where torchrun started it, whose ranks have sessions of their own and outlive it.
_TORCHRUN = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def _parent_is_gone() -> bool:
    return not _is_running(os.environ.get(PARENT, "")) or _TORCHRUN not in (None, os.getppid())


def _is_running(place: str) -> bool:
    """Whether ``process@machine`` is at work, as far as can be seen from here: on another machine it is."""
    process, _, machine = place.partition("@")
    return machine != os.uname().nodename or start_of(process) != ""


def _end(message: str) -> None:
    os.write(_errors, f"error: {message}\n".encode())
    os._exit(1)  # the main thread waits for a rank that is gone, and would wait on


#: Options for DeepSpeed's launcher, as one text; `--launcher-args` sets it, and notebooks inherit it.
OPTIONS = "HPT_LAUNCHER_ARGS"
#: Options that say on how many devices, or where.
_SIZES = ("--num_gpus", "--num_accelerators", "--num_nodes", "--include", "-i", "--exclude", "-e", "--hostfile", "-H")
#: Options that this package gives itself.
_OWN = ("--module", "--no_python", "--no_local_rank", "--autotuning")
#: Likewise GPUs and machines of each run, the executor (`hpt.runs.pool`), and the cluster's address, as Ray has it.
RUN_GPUS, RUN_NODES, EXECUTOR, ADDRESS = "HPT_RUN_GPUS", "HPT_RUN_NODES", "HPT_EXECUTOR", "RAY_ADDRESS"
#: Beginnings of the variables that DeepSpeed's launcher hands to no other machine, or not on every accelerator.
_PASSED_ON = ("DS_", "GLOO_", "HF_", "HPT_", "KMP_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "TOKENIZERS_", "TORCH_",
              "TRANSFORMERS_", "VLLM_")  # fmt: skip


def passed_on(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that ranks on every machine are to have, none of them a secret.

    Example:
        >>> passed_on({"NCCL_SOCKET_IFNAME": "ib0", "HF_TOKEN": "hf_...", "VLLM_HOST_IP": "10.0.0.1", "HOME": "/root"})
        {'NCCL_SOCKET_IFNAME': 'ib0'}
    """
    left_out = (PARENT, "VLLM_HOST_IP")  # true on this machine alone
    return {
        name: value for name, value in variables.items()
        if name.startswith(_PASSED_ON) and name not in left_out and not name.endswith(("_TOKEN", "_KEY", "_SECRET"))
    }  # fmt: skip


def launcher_options(text: str | None = None) -> list[str] | None:
    """Return the options DeepSpeed's launcher is started with; None = a single process, without it.

    Raises:
        ConfigError: not options, or one that the package gives itself, or that cannot work.

    Example:
        >>> launcher_options("--hostfile hosts --num_gpus 8")
        ['--hostfile', 'hosts', '--num_gpus', '8']
    """
    text = os.environ.get(OPTIONS) if text is None else text
    if text is None:
        return None
    refused = partial(ConfigError, "--launcher-args", text)
    try:
        options = shlex.split(text)
    except ValueError as error:
        raise refused(f"options of `deepspeed` ({error})", "close the quotes") from error
    names = [option.partition("=")[0] for option in options]
    if options and not options[0].startswith("-"):
        raise refused("options of `deepspeed`, see `deepspeed --help`", "write e.g. --launcher-args '--num_gpus 8'")
    if given := [name for name in names if name in _OWN]:
        raise refused(f"other options than {', '.join(given)}", "leave it out: hpt gives what its module needs")
    if re.search(r"--launcher[= ]+slurm\b", " ".join(options).lower()):
        remedy = "start the ranks with srun and torchrun, see docs/cluster.md"
        raise refused("another --launcher: DeepSpeed's for slurm cannot start a module", remedy)
    if not visible_gpus() and not set(names) & set(_SIZES):
        raise refused("a number of processes, since there is no GPU to count", "add --num_accelerators N")
    return options


def executor_name() -> str:
    """Return which executor `--executor` names."""
    name = os.environ.get(EXECUTOR, "local")
    if name not in ("local", "ray"):
        raise ConfigError("--executor", name, "local or ray", "leave it out for this machine")
    return name


def gpu_names() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them, without importing PyTorch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]


def visible_gpus() -> int:
    """Return how many GPUs this process may use."""
    return len(gpu_names())


def gpu_groups(default: int) -> list[str]:
    """Return the groups of GPUs that runs side by side take, each as CUDA_VISIBLE_DEVICES names it; [] without GPUs.

    A group has as many as `--run-gpus` says, which must be there, else ``default``.
    """
    names, asked = gpu_names(), os.environ.get(RUN_GPUS)
    if asked is not None and not (asked.isdecimal() and 0 < int(asked) <= len(names)):
        raise ConfigError("--run-gpus", asked, f"a number up to {len(names)}, the GPUs visible here",
                          "ask for fewer, or leave it out")  # fmt: skip
    size = int(asked) if asked is not None else max(1, min(default, len(names)))
    return [",".join(names[start : start + size]) for start in range(0, len(names) - size + 1, size)]


def job_command(module: str, arguments: Sequence[str], options: Sequence[str] | None) -> list[str]:
    """Return the command that runs ``python -m module arguments``, under the launcher unless ``options`` is None.

    Example:
        >>> job_command("hpt.runs.job", ["job.json"], ["--num_gpus", "8", "--master_port", "29501"])[2:]
        ['deepspeed.launcher.runner', '--num_gpus', '8', '--master_port', '29501', '--no_local_rank', '--module', \
'hpt.runs.job', 'job.json']
    """
    if options is None:
        return [sys.executable, "-m", module, *arguments]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *options]
    if not any(option.startswith(("--master_port", "--hostfile", "-H")) for option in options):
        # the launcher always takes 29500, on which a job may still be ending; which port is free on the first of
        # several machines is not known here
        launcher += ["--master_port", str(free_port())]
    return [*launcher, "--no_local_rank", "--module", module, *arguments]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process ended, by the signal ``number``, when the thread that started it ends, however that does.

    A parent that is killed outright cannot stop what it started: without this it would run on, unseen.
    """
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG

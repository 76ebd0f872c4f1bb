"""The processes of one job: who this one is, what share of the work is its own, and what happens when one is lost.

A rank that fails or vanishes would leave the others waiting in a collective operation until a time limit of half an
hour. So every rank gives a sign of life every few seconds and looks for its neighbour's; whoever fails says so first,
and all others end with that rank's error.
"""

import datetime
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Seconds between two signs of life, and without any until a rank counts as lost.
BEAT_S, LOST_S = 2.0, 40.0
#: Longest wait in a collective operation: losses are noticed by the watch, and a rank may download a model meanwhile.
WAIT = datetime.timedelta(hours=6)
#: Process that asked for this job and the machine it runs on: ranks end with it (see `hpt.pool`).
PARENT = "HPT_PARENT"


class Ranks:
    """This process among the ranks of its job.

    Args:
        rank: of this process, from 0.
        ranks: how many there are.

    Example:
        >>> Ranks(1, 2).share(["a", "b", "c"])
        ['b']
        >>> Ranks(1, 2).share(["a", "b", "c"], tensor_parallel=2)
        ['a', 'b', 'c']
    """

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    def share(self, items: Sequence[Item], tensor_parallel: int = 1) -> Sequence[Item]:
        """Return this rank's share of ``items``; ranks that share one sampler's weights have the same share.

        Args:
            items: the same on every rank.
            tensor_parallel: ranks that share one sampler, see `sampler_width`.
        """
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
        """Wait for all ranks."""
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


def launched_rank() -> int:
    """Return the rank a launcher gave to this process; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def launched_ranks() -> int:
    """Return the number of ranks a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Ranks:
    """Return this process among its ranks, after joining their process group where there are several."""
    if launched_ranks() == 1:
        return Ranks()
    from hpt.engine import start_process_group

    start_process_group()
    return Ranks(launched_rank(), launched_ranks())


class RankWatch(threading.Thread):
    """Ends this process when another rank failed or gives no sign of life.

    Args:
        rank, ranks: who this is.
        store: key-value store of all ranks (a client of its own: the process group's may wait for minutes).
        end: ends the process with a message; tests give another.
    """

    def __init__(self, rank: int, ranks: int, store: Any, end: Callable[[str], None] | None = None) -> None:
        super().__init__(name="rank watch", daemon=True)
        self.rank, self.neighbour, self.store = rank, (rank + 1) % ranks, store
        self.end = end or _end
        self.beat, self.seen, self.seen_at = 0, "", time.monotonic()
        self.finished = threading.Event()
        self.reported = False

    def run(self) -> None:
        """Look every few seconds."""
        while not self.finished.wait(BEAT_S):
            if (message := self.look()) and not self.finished.is_set():
                self.end(message)
                return

    def look(self) -> str | None:
        """Give a sign of life; return what is wrong with another rank, if anything is."""
        if _parent_is_gone():
            return "the process that started this job has ended"
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
            self.seen, self.seen_at = beat, time.monotonic()
        elif time.monotonic() - self.seen_at > LOST_S:
            return self.report(f"rank {self.neighbour} was lost: no sign of life for {LOST_S:.0f} s; its log says why")
        return None

    def report(self, message: str) -> str:
        """Tell all ranks what failed; returns the message that was first."""
        self.reported = True
        try:
            return self.store.compare_set("failure", "", message).decode() or message
        except Exception:  # rank 0 went first
            return message

    def finish(self) -> None:
        """Stop watching: this rank is done."""
        self.finished.set()
        try:
            self.store.set(f"beat/{self.rank}", "finished")
        except Exception:  # rank 0 may be done and gone
            return


_watch: RankWatch | None = None


def start_watch() -> None:
    """Watch over the ranks from here on; nothing to do when there is one, or when it is done already."""
    global _watch
    if _watch is not None or launched_ranks() == 1:
        return
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*place, is_master=False, wait_for_workers=False, timeout=datetime.timedelta(seconds=LOST_S))
    _watch = RankWatch(launched_rank(), launched_ranks(), store)
    _watch.start()


def finish_watch() -> None:
    """Stop watching: the job is done on every rank."""
    if _watch is not None:
        _watch.finish()


def report_failure(message: str) -> None:
    """Tell the other ranks why this one ends; nothing to do when there are none."""
    if _watch is None:
        return
    _watch.report(f"rank {launched_rank()}: {message}")
    if launched_rank() == 0:
        time.sleep(2 * BEAT_S)  # the store ends with this process: let the others read it first


def first_failure(own: str) -> str:
    """Return why the job failed, when this rank's own error may only be the echo of another rank's.

    A rank that was killed says nothing itself: its neighbour notices, which takes up to `LOST_S`.
    """
    if _watch is None:
        return own
    end = time.monotonic() + LOST_S + 3 * BEAT_S
    while time.monotonic() < end and _watch.is_alive():
        time.sleep(BEAT_S)  # the watch ends this process as soon as it knows
    report_failure(own)
    return own


def _parent_is_gone() -> bool:
    parent = os.environ.get(PARENT)
    if parent is None:
        return False
    process, _, machine = parent.partition("@")
    return machine == os.uname().nodename and not os.path.exists(f"/proc/{process}")


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread waits for a rank that is gone, and would wait on

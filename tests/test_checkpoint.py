"""Checkpoints: whole or not there, the newest sound one is used, damage is counted, nothing piles up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pandas as pd
import pytest

from hpt.runs.folder import RunFolder
from hpt.support.files import check_manifest, sha256_file, write_json, write_manifest
from hpt.training.checkpoint import Records, TrainingState, checkpoints, load_newest, save_checkpoint
from hpt.training.ranks import Ranks
from tests.damage import flip_a_bit

METRICS = pd.DataFrame({"step": [0, 1], "loss/total": [0.1 + 0.2, float("nan")], "name": ["a", None]})


class Engine(Ranks):
    """What saving needs of an engine."""

    def save_state(self, folder: Path) -> list[Path]:
        (folder / "deepspeed").mkdir(exist_ok=True)
        file = folder / "deepspeed" / "weights.pt"
        file.write_bytes(b"whole weights")
        return [file]


def save(folder: Path, step: int, keep: int = 2, engine: Any = None, **state: Any) -> None:
    records: Records = {"metrics": METRICS, "rollouts": METRICS.head(1)}
    save_checkpoint(folder, engine or Engine(), TrainingState(step=step, **state), records, keep)


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "never written") == (None, TrainingState(), {})
    save(tmp_path, 7, version=12)
    save(tmp_path, 7, version=13, baseline=0.1 + 0.2)  # in its place
    path, state, records = load_newest(tmp_path)
    assert path == tmp_path / "step-000007"
    assert names(tmp_path) == ["step-000007"]
    assert state == TrainingState(step=7, version=13, baseline=0.1 + 0.2)
    pd.testing.assert_frame_equal(records["metrics"], METRICS, check_exact=True)
    assert set(records) == {"metrics", "rollouts"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000008", "step-000006"]
    save(tmp_path, 10, keep=1)
    assert names(tmp_path) == ["step-000010"]


FILES = ["deepspeed/weights.pt", "metrics.parquet", "rollouts.parquet", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    """So is a file that is empty or missing; each damaged checkpoint is counted once, a step again if it is again."""
    save(tmp_path, 2)
    for times, damage in enumerate((flip_a_bit, Path.unlink, lambda file: file.write_bytes(b"")), start=1):
        save(tmp_path, 4)
        damage(tmp_path / "step-000004" / name)
        for _ in range(2):
            path, state, _ = load_newest(tmp_path)
            assert path == tmp_path / "step-000002"
            assert (state.step, state.damaged_checkpoints) == (2, times)
            assert names(tmp_path) == ["step-000002"]


def test_all_damaged_is_a_fresh_start_that_says_so(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4)
    for step in (2, 4):
        flip_a_bit(tmp_path / f"step-00000{step}" / "state.json")
    assert load_newest(tmp_path) == (None, TrainingState(damaged_checkpoints=2), {})


def test_a_checkpoint_of_another_version_of_the_package_is_not_half_read(tmp_path: Path) -> None:
    """A counter this version does not know is treated as damage, not ignored."""
    save(tmp_path, 2)
    write_json(tmp_path / "step-000002" / "state.json", {"step": 2, "unheard_of": 1})
    write_manifest(tmp_path / "step-000002")
    assert load_newest(tmp_path)[1] == TrainingState(damaged_checkpoints=1)


class Together(Ranks):
    """One of several ranks in threads; what it gathers goes round."""

    def __init__(self, rank: int, round_table: Barrier, said: list[list[Any]]) -> None:
        super().__init__(rank, len(said))
        self.round_table, self.said = round_table, said

    def gather(self, own: list[Any]) -> list[Any]:
        self.said[self.rank] = own
        self.round_table.wait()
        everything = [item for part in self.said for item in part]
        self.round_table.wait()
        return everything

    def barrier(self) -> None:
        self.round_table.wait()

    def save_state(self, folder: Path) -> list[Path]:
        file = folder / "deepspeed" / f"shard-{self.rank}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"of {self.rank}")
        return [file]


def on_ranks(count: int, work: Callable[[Any], Any]) -> list[Any]:
    """What ``work`` returns on each of the ranks."""
    table, said = Barrier(count, timeout=20), list[list[Any]]([[] for _ in range(count)])
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, [Together(rank, table, said) for rank in range(count)]))


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_every_rank_hashes_what_it_wrote_and_a_share_of_what_is_read(
    readers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    hash_of = sha256_file

    def note(path: Path) -> str:
        hashed.append(path.name)
        return hash_of(path)

    monkeypatch.setattr("hpt.training.checkpoint.sha256_file", note)
    monkeypatch.setattr("hpt.support.files.sha256_file", note)
    on_ranks(2, lambda rank: save(tmp_path, 2, engine=rank))
    check_manifest(tmp_path / "step-000002")
    written = ["metrics.parquet", "rollouts.parquet", "shard-0", "shard-1", "state.json"]
    assert sorted(hashed[:5]) == written, "each once"
    hashed.clear()
    answers = on_ranks(readers, lambda rank: load_newest(tmp_path, rank))
    assert sorted(hashed) == written, "each once"
    assert {(path, state.step) for path, state, _ in answers} == {(tmp_path / "step-000002", 2)}
    on_ranks(2, lambda rank: save(tmp_path, 4, engine=rank))
    flip_a_bit(tmp_path / "step-000004" / "deepspeed" / "shard-1")
    answers = on_ranks(readers, lambda rank: load_newest(tmp_path, rank))
    assert {(path, state.damaged_checkpoints) for path, state, _ in answers} == {(tmp_path / "step-000002", 1)}
    assert names(tmp_path) == ["step-000002"]


def test_a_checkpoint_says_on_which_kinds_of_processor_it_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    assert run.begun == {}
    for step, kind in enumerate(["first", "first", "second", "second", "first"]):
        monkeypatch.setattr("hpt.training.checkpoint.processor", lambda kind=kind: kind)
        _, state, _ = load_newest(run.path / "checkpoints")
        save(run.path / "checkpoints", step, processors=state.processors)
    assert run.begun["processors"] == ["first", "second", "first"]

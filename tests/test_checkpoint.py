"""Checkpoints: whole or not there, the newest sound one is used, damage is counted, nothing piles up."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hpt.support.errors import HptError
from hpt.support.files import check_manifest
from hpt.training.checkpoint import Records, TrainingState, checkpoints, load_newest, save_checkpoint

METRICS = pd.DataFrame({"step": [0, 1], "loss/total": [0.1 + 0.2, float("nan")], "name": ["a", None]})


class Engine:
    """What saving needs of an engine; ``fail`` makes writing the state stop half-way."""

    rank, ranks = 0, 1
    fail = False

    def save_state(self, folder: Path) -> None:
        (folder / "deepspeed").mkdir()
        (folder / "deepspeed" / "weights.pt").write_bytes(b"half" if self.fail else b"whole weights")
        if self.fail:
            raise HptError("disk full")

    def barrier(self) -> None:
        pass


def save(folder: Path, step: int, keep: int = 2, engine: Any = None, **state: Any) -> None:
    records: Records = {"metrics": METRICS, "rollouts": METRICS.head(1)}
    save_checkpoint(folder, engine or Engine(), TrainingState(step=step, **state), records, keep)


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    save(tmp_path, 7, version=13, baseline=0.1 + 0.2)
    path, state, records = load_newest(tmp_path)
    assert path == tmp_path / "step-000007"
    assert state == TrainingState(step=7, version=13, baseline=0.1 + 0.2)
    pd.testing.assert_frame_equal(records["metrics"], METRICS, check_exact=True)
    assert set(records) == {"metrics", "rollouts"}


def test_nothing_to_continue_from(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "never written") == (None, TrainingState(), {})


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000008", "step-000006"]
    save(tmp_path, 10, keep=1)
    assert names(tmp_path) == ["step-000010"]


def test_a_write_that_stops_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 2)
    broken = Engine()
    broken.fail = True
    with pytest.raises(HptError, match="disk full"):
        save(tmp_path, 4, engine=broken)
    assert load_newest(tmp_path)[1] == TrainingState(step=2)
    save(tmp_path, 4)  # and the rest of the broken one is not in the way
    path, state, _ = load_newest(tmp_path)
    assert (path, state.step, state.damaged_checkpoints) == (tmp_path / "step-000004", 4, 0)
    check_manifest(tmp_path / "step-000004")


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 2, version=1)
    save(tmp_path, 2, version=2)
    assert load_newest(tmp_path)[1].version == 2
    assert names(tmp_path) == ["step-000002"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = ["deepspeed/weights.pt", "metrics.parquet", "rollouts.parquet", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4)
    flip_a_bit(tmp_path / "step-000004" / name)
    path, state, _ = load_newest(tmp_path)
    assert path == tmp_path / "step-000002"
    assert (state.step, state.damaged_checkpoints) == (2, 1)
    assert names(tmp_path) == ["step-000002"]
    assert load_newest(tmp_path)[1].damaged_checkpoints == 1  # counted once


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_empty_file_is_damage_too(tmp_path: Path, name: str) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4)
    save(tmp_path, 6, keep=3)
    (tmp_path / "step-000006" / name).unlink()
    (tmp_path / "step-000004" / name).write_bytes(b"")
    path, state, _ = load_newest(tmp_path)
    assert path == tmp_path / "step-000002"
    assert state.damaged_checkpoints == 2


def test_the_same_step_may_be_damaged_twice(tmp_path: Path) -> None:
    save(tmp_path, 2)
    for times in (1, 2, 3):
        save(tmp_path, 4)
        flip_a_bit(tmp_path / "step-000004" / "state.json")
        path, state, _ = load_newest(tmp_path)
        assert path == tmp_path / "step-000002"
        assert state.damaged_checkpoints == times


def test_all_damaged_is_a_fresh_start_that_says_so(tmp_path: Path) -> None:
    save(tmp_path, 2)
    flip_a_bit(tmp_path / "step-000002" / "state.json")
    assert load_newest(tmp_path) == (None, TrainingState(damaged_checkpoints=1), {})


def test_a_checkpoint_of_another_version_of_the_package_is_not_half_read(tmp_path: Path) -> None:
    """A counter this version does not know is treated as damage, not ignored."""
    from hpt.support.files import write_json, write_manifest

    save(tmp_path, 2)
    write_json(tmp_path / "step-000002" / "state.json", {"step": 2, "unheard_of": 1})
    write_manifest(tmp_path / "step-000002")
    assert load_newest(tmp_path)[1] == TrainingState(damaged_checkpoints=1)


def test_other_ranks_write_their_state_and_leave_the_rest_to_rank_0(tmp_path: Path) -> None:
    class OtherRank(Engine):
        rank, ranks = 1, 2

        def save_state(self, folder: Path) -> None:
            pass

    save(tmp_path, 2, engine=OtherRank())
    assert list(tmp_path.iterdir()) == []

"""Checkpoints written by two ranks and read by one, at every ZeRO stage, and by as many as wrote them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hpt.support.errors import RecordFault
from tests.invariance import world
from tests.invariance.resharding import STAGES, engine_at, update
from tests.processes import run_ranks

SHARDS = [f"shard-00{rank}-of-002.safetensors" for rank in (0, 1)]


@pytest.fixture(scope="module")
def written_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-ranks")
    return run_ranks(2, folder, "tests.invariance.resharding", str(folder), timeout_s=250)


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_goes_on_where_two_stopped(stage: int, written_by_two: Path) -> None:
    """The weights come back in every bit; the update after it sums gradients in another order, hence 1e-5."""
    expected = torch.load(written_by_two / f"{stage}.pt", weights_only=True)
    engine = engine_at(stage)
    engine.load_state(written_by_two / str(stage))
    assert torch.equal(world.flat(engine.named_weights()), expected["before"])
    after = update(engine)
    moved = (expected["after"] - expected["before"]).abs().max()
    # Adam without its moments would move by the whole rate in another direction
    assert (after - expected["after"]).abs().max() < 1e-3 * moved
    engine.close()


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_go_on_bit_by_bit_and_read_a_file_each(stage: int, written_by_two: Path) -> None:
    found = torch.load(written_by_two / f"{stage}.pt", weights_only=True)
    assert torch.equal(found["read"], found["after"])
    read = [json.loads((written_by_two / f"{stage}-{rank}.json").read_text()) for rank in (0, 1)]
    assert read == [[name] if stage else [] for name in SHARDS]


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_number_of_ranks_goes_on_bit_by_bit(stage: int, tmp_path: Path) -> None:
    """Also where the first update was skipped."""
    engine = engine_at(stage)
    unguarded = engine.optimizer_settings
    engine.optimizer_settings = unguarded.model_copy(update={"skip_above_norm": 1e-9})
    before = world.flat(engine.named_weights())
    update(engine, applied=False)
    assert torch.equal(world.flat(engine.named_weights()), before)
    engine.optimizer_settings = unguarded
    update(engine)
    engine.save_state(tmp_path)
    expected = update(engine)
    again = engine_at(stage)
    again.load_state(tmp_path)
    assert torch.equal(update(again), expected)


def test_shards_are_shared_evenly_and_a_missing_one_is_named(written_by_two: Path, tmp_path: Path) -> None:
    files = sorted((written_by_two / "3" / "deepspeed").iterdir())
    assert [file.name for file in files] == SHARDS
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) < 0.8 * sum(sizes)
    (tmp_path / "deepspeed").mkdir()
    shutil.copy(files[0], tmp_path / "deepspeed")
    with pytest.raises(RecordFault, match="1 shards, not all of them"):
        engine_at(3).load_state(tmp_path)

"""A run is named by its settings, its data and the weights it starts from; whatever is drawn, is drawn from a seed."""

import ast
import json
from functools import cache
from pathlib import Path

import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder, write_checksums
from hpt.runs.resolve import base_config, build_config, resolve_run

ROOT = Path(__file__).resolve().parent.parent
ROW = {"id": "1", "question": "1+1?", "answer": "2", "demonstration": "\\boxed{2}"}


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A model folder and a data file, as far as naming a run looks at them."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2", "rope_theta": 10_000}))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(1_000))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    return tmp_path


def resolved(folder: Path, model: str = "model", policy: str = "own") -> RunConfig:
    chosen = {"policy.path": str(folder / model), "data.source": str(folder / "rows.jsonl")}
    return resolve_run(build_config("hpt", scale="tiny", policy=policy, settings=chosen), folder)


def fingerprint(folder: Path, model: str = "model") -> str:
    return resolved(folder, model).fingerprint()


def test_the_same_gives_the_same_wherever_the_model_lies(given: Path) -> None:
    before = fingerprint(given)
    assert fingerprint(given) == before
    (given / "model").rename(given / "moved")
    assert fingerprint(given, "moved") == before


@pytest.mark.parametrize("field", ROW)
def test_a_letter_of_the_data_moves_the_fingerprint(field: str, given: Path) -> None:
    before = fingerprint(given)
    (given / "rows.jsonl").write_text(json.dumps(ROW | {field: ROW[field] + "0"}) + "\n")
    assert fingerprint(given) != before


def test_a_bit_of_the_weights_moves_the_fingerprint(given: Path) -> None:
    before = fingerprint(given)
    (given / "model" / "model.safetensors").write_bytes(bytes(999) + b"\x01")
    assert fingerprint(given) != before


def test_a_folder_is_no_base_because_it_has_its_name_and_a_status_beside_it(given: Path) -> None:
    """Somebody's trainer writes a status.json, too; the recipe of the base says nothing of such a model."""
    (given / "status.json").write_text(json.dumps({"state": "finished"}))
    before = resolved(given, policy="weak")
    assert resolve_run(before, given) == before
    (given / "model" / "config.json").write_text(json.dumps({"model_type": "qwen2", "rope_theta": 1_000_000}))
    assert resolved(given, policy="weak").fingerprint() != before.fingerprint()


def test_a_base_is_named_by_its_recipe_and_stays_so_when_it_is_resolved_again(given: Path) -> None:
    config = build_config("hpt", scale="tiny", settings={"data.source": str(given / "rows.jsonl")})
    base = base_config(config)
    folder = RunFolder.of(base, given / "runs")
    folder.create(base)
    (given / "model").rename(folder.model)
    write_checksums(folder)
    folder.set_status("finished", base.schedule.steps)
    named = resolve_run(config, given / "runs")
    assert named.policy.config_sha256 == ""
    assert resolve_run(named, given / "elsewhere") == named


@cache
def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of a function or method of this name in the package, with its place."""
    return [
        (f"{path}:{node.lineno}", node)
        for path in sorted((ROOT / "hpt").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and name in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))
    ]


@pytest.mark.parametrize(("name", "argument"), [("bca_interval", "generator"), ("bootstrap", "rng")])
def test_every_bootstrap_is_given_its_seed(name: str, argument: str) -> None:
    assert calls(name)
    unseeded = [place for place, call in calls(name) if argument not in {word.arg for word in call.keywords}]
    assert not unseeded


def test_no_generator_starts_from_nowhere() -> None:
    assert len(calls("default_rng")) > 3
    assert not [place for place, call in calls("default_rng") if not call.args]

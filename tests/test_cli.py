"""The command line: help that helps, mistakes named before any compute, exit codes that scripts can rely on."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hpt import __version__
from hpt.cli import parse_seeds, parse_settings
from hpt.runs.folder import RunFolder
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import ConfigError
from tests import stand_ins
from tests.command_line import hpt


@pytest.mark.parametrize("command", ["reproduce", "train", "evaluate", "plan", "runs", "report", "doctor"])
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    assert "Usage" in hpt(command, "--help", folder=tmp_path).stdout


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hpt.cli", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert said == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--method", "hpx"), "or module:attribute; did you mean hpt?"),
        (("train", "--scale", "tiny", "--policy", "nosuch"), "a model folder that exists: --policy FOLDER"),
        (("train", "--set", "gate.cuont=2"), "did you mean count?"),
        (("train", "--set", "gate.count"), "--set = 'gate.count'"),
        (("train", "--data", "missing.jsonl"), "missing.jsonl"),
        (("train", "--method", "pretrain", "--set", "gate.count=2"), "a base is made by its recipe"),
        (("train", "--method", "pretrain", "--run-gpus", "99"), "--run-gpus = '99'"),
        (("train", "--method", "pretrain", "--recipe", "paper"), "no recipe=paper: a base is made by its recipe"),
        (("train", "--set", "recipe=paper"), "recipe = 'paper': allowed is a setting; what follows"),
        (("train", "--data", "a.jsonl", "--set", "data.source=b.jsonl"), "data.source = 'b.jsonl': allowed is one of"),
        (("plan", "--executor", "Ray"), "--executor = 'Ray': allowed is local or ray"),
        (("plan", "--scale", "gpu", "--jobs", "2"), "--jobs = 2: allowed is at most 1"),
        (("plan", "--scale", "full", "--run-gpus", "9"), "--run-gpus = 9: allowed is at most 8"),
        (("evaluate", "--model", ".", "--set", "rollout.temperature=0.2"), "a setting that moves an evaluation"),
        (("evaluate", "--model", ".", "--set", "validation.samples_per_problem=8"), "set@8 draws eight answers"),
        (("reproduce", "--only", "list"), "allowed is one of table2, table3,"),
        (("reproduce", "--seeds", "0,0"), "seeds = '0,0'"),
        (("runs", "show", "nothing"), "run = 'nothing'"),
    ],
)
def test_a_mistake_is_named_and_exits_with_2_before_any_compute(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = hpt(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "demonstration of q0 = None: allowed is a text before its end token: hpt learns from it"),
        ({"question": "1+" * 60, "demonstration": "2"}, "q0 = '121 tokens': allowed is at most data.max_prompt"),
        ({"answer": None, "demonstration": "2"}, "rows.jsonl, row 0: answer"),
    ],
)
def test_questions_that_cannot_be_trained_on_are_named_before_a_base_is_trained(
    row: dict[str, object], said: str, tmp_path: Path
) -> None:
    rows = [{"id": f"q{i}", "question": "1+1", "answer": "2", **row} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = hpt("train", "--scale", "tiny", "--data", "rows.jsonl", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("said", "ended_with", "expected"),
    [
        ("error: data.max_prompt_tokens = 4: allowed is more", 2, 2),
        ("error: stale weights", 1, 1),
        ("usage: python", 2, 1),
    ],
)
def test_a_run_that_refuses_what_was_asked_for_ends_the_command_with_2(
    said: str, ended_with: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins.JOB, partial(stand_ins.ending, said, ended_with))
    done = hpt("train", "--method", "pretrain", "--scale", "tiny", folder=tmp_path)
    assert done.returncode == expected
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--scale tiny", ["pretrain", "not made yet", "no run in {folder}/runs"]),
        ("--scale mini --jobs 2 --machines 3", ["6 runs at a time on cores"]),
        ("--scale full --machines 3", ["3 runs at a time, each on 8 GPUs"]),
        ("--scale mini --jobs 2 --machines 4 --run-nodes 2", ["4 runs at a time on cores"]),
        ("--scale full --run-gpus 2", ["4 runs at a time, each on 2 GPUs", "math-500,minerva,olympiad --run-gpus 2"]),
        ("--scale full --run-gpus 2 --jobs 3", ["3 runs at a time, each on 2 GPUs"]),
        ("--scale full --only table3 --gpu-memory 8",
         ["hpt-weak s0", "GPU time", "does not fit", "stated, not measured", "hpt train --method hpt"]),
    ],
)  # fmt: skip
def test_plan_says_what_would_run_why_and_how_long_it_takes(options: str, parts: list[str], tmp_path: Path) -> None:
    done = hpt("plan", "--seeds", "0,1,2", *options.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert part.format(folder=tmp_path) in " ".join(done.stdout.split())
    assert not list(tmp_path.iterdir())


def test_from_another_folder_the_runs_that_are_elsewhere_are_named(tmp_path: Path) -> None:
    run, inner = tmp_path / "runs" / "tiny" / "hpt-weak-s0-0", tmp_path / "notebooks"
    run.mkdir(parents=True)
    inner.mkdir()
    (run / "config.json").write_text("{}")
    there = f"no run in {inner / 'runs'}; there are some in {tmp_path / 'runs'}: --runs-dir"
    assert there in hpt("runs", "list", folder=inner).stdout
    assert there in hpt("runs", "show", "hpt", folder=inner).stderr
    refused = hpt("report", "--scale", "tiny", folder=inner)
    assert refused.returncode == 1
    assert there in refused.stdout
    assert f"runs are missing in {inner / 'runs' / 'tiny'}" in refused.stderr
    asked = ("--scale", "tiny", "--seeds", "0,1", "--only", "table6", "--runs-dir", "my runs")
    assert "`hpt reproduce` with the same options computes them" in hpt("report", *asked, folder=inner).stderr
    assert hpt("report", "--scale", "tiny", "--from-records", folder=inner).returncode == 2
    assert not list(inner.iterdir())


def test_a_stopped_run_goes_on_and_is_evaluated_as_it_was_trained_once_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = base_config(build_config("hpt", scale="tiny"))
    folder = RunFolder.of(config, tmp_path / "runs")
    folder.create(config)
    folder.set_status("stopped", 12)
    name = folder.path.name
    assert "allowed is a finished run (it is stopped)" in hpt("evaluate", name, folder=tmp_path).stderr
    refused = hpt("evaluate", name, "--scale", "full", folder=tmp_path)
    assert refused.returncode == 2
    assert "--scale = 'full': allowed is nothing beside a run" in refused.stderr
    monkeypatch.setattr(stand_ins.JOB, partial(stand_ins.ending, "error: enough", 1))
    done = hpt("train", "--method", "pretrain", "--scale", "tiny", folder=tmp_path)
    assert f"started {name} again: it had stopped at step 12\n" in done.stderr


def test_an_export_of_nothing_says_so(tmp_path: Path) -> None:
    done = hpt("runs", "export", "--scale", "tiny", folder=tmp_path)
    assert f"nothing exported: no finished run in {tmp_path / 'runs' / 'tiny'}" in done.stdout
    assert not list(tmp_path.iterdir())


def test_seeds_and_settings_are_read_strictly() -> None:
    assert parse_seeds("0, 2") == [0, 2]
    assert parse_settings(["a.b=1e-3", "c=none", "d=true"]) == {"a.b": 1e-3, "c": "none", "d": True}
    for bad in ("", "-1", "1.5", "a", "٣"):
        with pytest.raises(ConfigError):
            parse_seeds(bad)
    with pytest.raises(ConfigError):
        parse_settings(["a=1", "a=2"])

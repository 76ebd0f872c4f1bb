"""Modules that a user writes: found, checked before a run, hashed, kept, and read again when they change."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hpt.config.run_config import RunConfig
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import names_used
from hpt.runs.folder import RunFolder
from hpt.runs.job import Job
from hpt.runs.records import recorded_config, with_data_hash
from hpt.runs.resolve import build_config, resolve_run
from hpt.support.errors import ConfigError
from hpt.support.files import read_json
from hpt.support.plugins import check_unchanged, folders, keep_sources

RECORDS = Path(__file__).resolve().parent.parent / "reports" / "mini" / "records"
GATE = "def gate(settings, correct, n):\n    return correct / n, 1 - correct / n\n"
HEAD = """
from dataclasses import replace
from hpt.methods.methods import METHODS, Component
from hpt.upge.estimator import ROWS
_ON, _OFF = METHODS["hpt"].components
ROW = replace(ROWS["dr_grpo"], name="mine", {part}="my_idea:part")
METHOD = replace(METHODS["hpt"], name="mine", title="Mine", like="hpt",
                 components=(replace(_ON, row="my_idea:ROW"), _OFF))
"""
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module where Python finds it; forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # the command line looks in the current folder first, where the notebook may have left a module of this name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    before = set(sys.modules)

    def written(text: str, name: str = "my_idea") -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    yield written
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def gated() -> RunConfig:
    """HPT with the gate that was written, named as its run is."""
    return with_data_hash(build_config("hpt", scale="tiny", settings={"gate.kind": "my_idea:gate"}))


#: What is custom -> a module's text, and the sentence it is refused with.
WRONG: dict[str, dict[str, str]] = {
    "gate": {
        "def other(): ...": r"my_idea has other; correct the attribute",
        "import nowhere_at_all": r"correct my_idea: .*: ModuleNotFoundError: .*'nowhere_at_all'",
        "def gate(:": r"correct my_idea\.py: invalid syntax",
        "x = 1\ny = 1 / 0": r"correct my_idea: /.*/my_idea\.py:2: ZeroDivisionError",
        "def gate(s, c, n):\n    return missing": r"correct it: /.*/my_idea\.py:2: NameError",
        "gate = 3": r"allowed is a function of 3 arguments; .*'int' object is not callable",
        "def gate(settings): ...": r"correct it: TypeError: gate\(\) takes 1 positional",
        "def gate(s, c, n): return c / n": r"a list or tuple of 2; .*it returned a ndarray",
        "def gate(s, c, n): return c / n, (c / n)[:1]": r"of shape \(9,\), .*returned shape \(1,\)",
        "def gate(s, c, n): return c / n, c > 1": r"float64, finite.*it returned bool",
        "def gate(s, c, n): return c / n, c / n - 1": r"at least 0; it returned -1",
        "def gate(s, c, n): return c / n, c / n + float('nan')": r"returned infinite or missing",
    },
    "mask": {
        "def part(row, streams, advantages): return (advantages > 0)": r"row mine: mask = .*torch\.bool",
        "def part(row, streams, advantages): return streams.logprobs.mean()": r"returned shape \(\)",
        "def part(row, streams, advantages): return streams.logprobs": r"a gradient: use \.detach",
    },
    "denominator": {
        "def part(row, streams, advantages): return [0.0]": r"row mine: denominator.*returned a list",
        "def part(row, streams, advantages): return streams.old_logprobs - float('inf')":
            r"row mine: denominator = 'my_idea:part'.*returned infinite or missing",
    },
    "advantage": {
        "def part(row, groups): return groups.rewards": r"a list or tuple of 2; .*returned a ndarray",
        "def part(row, groups): return [groups.rewards] * 2": r"of shape \(1,\), .*shape \(2,\)",
    },
    "aggregation": {"def part(lengths, counts): return lengths[:1] / 2": r"row mine: aggregation.*shape \(1,\)"},
    "trajectory_coefficient": {"def part(streams, rewards): return 1.0": r"trajectory_coefficient.*a float"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "text", "message"), [(part, *own) for part, cases in WRONG.items() for own in cases.items()]
)
def test_what_is_wrong_with_a_part_is_said_before_anything_runs(
    part: str, text: str, message: str, write: Write
) -> None:
    write(text if part == "gate" else HEAD.format(part=part) + text)
    method, settings = ("hpt", {"gate.kind": "my_idea:gate"}) if part == "gate" else ("my_idea:METHOD", {})
    with pytest.raises(ConfigError, match=message):
        build_config(method, scale="tiny", settings=settings)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("hpt", {"gate.kind": "my_none:gate"}, r"'my_none:gate': .*module that exists; put my_none\.py where"),
        ("my_idea:gate", {}, r"method = 'my_idea:gate': allowed is a hpt\.methods\.methods\.Method, not a function"),
        ("hpt", {"estimator.online_row": "my_idea:gate"}, r"online_row = .*a hpt\.upge\.estimator\.Row, not a"),
    ],
)
def test_a_name_of_nothing_or_of_something_else_is_refused(
    method: str, settings: dict[str, str], message: str, write: Write
) -> None:
    write(GATE)
    with pytest.raises(ConfigError, match=message):
        build_config(method, scale="tiny", settings=settings)


@pytest.mark.parametrize("part", ["mask", "denominator", "advantage", "aggregation", "trajectory_coefficient"])
def test_a_misspelt_part_of_a_row_is_refused_before_the_base_is_trained(part: str, write: Write) -> None:
    write(HEAD.format(part=part).replace("my_idea:part", "clipp"))
    with pytest.raises(ConfigError, match=f"row mine: {part} = 'clipp': allowed is one of"):
        build_config("my_idea:METHOD", scale="tiny")


def test_no_run_made_before_got_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of custom modules is in a fingerprint only where there are any: finished runs must still be found."""
    folders_ = sorted(RECORDS.glob("*/config.json"))
    assert len(folders_) >= 80
    for path in folders_:
        config = recorded_config(path.parent)
        if not config.own_modules:
            assert "own_modules" not in config.telling()
        made_at = read_json(path.with_name("provenance.json")).get("numerics_version", 2)
        monkeypatch.setattr("hpt.config.run_config.NUMERICS_VERSION", made_at)
        assert config.fingerprint() == path.parent.name.rpartition("-")[2]


def test_code_is_part_of_the_fingerprint_and_words_are_not(write: Write) -> None:
    assert with_data_hash(build_config("hpt", scale="tiny")).own_modules == {}
    write(GATE)
    first = gated()
    write(f'"""A docstring."""\n# a comment\n{GATE}')
    assert gated().fingerprint() == first.fingerprint()
    write(GATE.replace("1 - correct", "2 - correct"))
    changed = gated()
    assert changed.fingerprint() != first.fingerprint()
    # and the function itself is the new one, in a process that had imported the old
    alpha, beta = feedback_coefficients(changed.gate, np.array([0, 4]), 8)
    assert (alpha.tolist(), beta.tolist()) == ([0.0, 0.5], [2.0, 1.5])


def test_a_module_beside_it_counts_and_is_read_again(write: Write) -> None:
    write("def half(share):\n    return share / 2\n", "my_helper")
    write("import numpy as np\nfrom my_helper import half\n" + GATE.replace("1 - correct / n", "half(correct / n)"))
    config = gated()
    assert set(config.own_modules) == {"my_idea", "my_helper"}
    write("def half(share):\n    return share / 4\n", "my_helper")
    again = gated()
    assert again.fingerprint() != config.fingerprint()
    assert feedback_coefficients(again.gate, np.array([8]), 8)[1].tolist() == [0.25]


def test_a_run_keeps_the_source_and_refuses_other_code(write: Write, tmp_path: Path) -> None:
    write(GATE)
    keep_sources(names_used(build_config("hpt", scale="tiny")), tmp_path / "kept")
    assert not (tmp_path / "kept").exists(), "sources of the package"
    config = gated()
    keep_sources(names_used(config), tmp_path / "kept")
    assert {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()} == {"my_idea.py": GATE}
    check_unchanged(config.own_modules, names_used(config))
    write(GATE + "\nMORE = 1\n")
    with pytest.raises(ConfigError, match=r"own_modules\.my_idea = .*give the command again"):
        check_unchanged(config.own_modules, names_used(config))


def test_processes_find_a_module_where_this_one_did(write: Write, tmp_path: Path) -> None:
    write(GATE)
    assert folders(["my_idea"]) == [str(tmp_path.resolve())]
    assert folders(["hpt.examples.smooth_gate"]) == [str(RECORDS.parents[2])]


def test_an_installed_package_offers_methods_rows_and_gates_by_name(write: Write, tmp_path: Path) -> None:
    """Entry points stand for module:attribute, which is what the configuration holds and the fingerprint hashes."""
    write(GATE + HEAD.format(part="mask") + "def part(row, streams, advantages): return advantages * 0 + 1\n")
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hpt.methods]\nmine = my_idea:METHOD\nhpt = my_idea:METHOD\n"
        "[hpt.gates]\neven = my_idea:gate\n[hpt.rows]\nmine = my_idea:ROW\n"
    )
    config = build_config("mine", scale="tiny", settings={"gate.kind": "even", "estimator.online_row": "mine"})
    assert (config.method, config.gate.kind) == ("my_idea:METHOD", "my_idea:gate")
    assert config.estimator.online_row == "my_idea:ROW"
    assert set(with_data_hash(config).own_modules) == {"my_idea"}
    assert build_config("hpt", scale="tiny").method == "hpt", "nobody takes a name of the package"
    with pytest.raises(ConfigError, match="method = 'theirs': allowed is one of sft"):
        build_config("theirs", scale="tiny")


#: Everything custom at once: a gate that always gives both signals, a mask that lets nothing but gains through.
EVERYTHING = f"""{HEAD.format(part="mask")}
METHOD = replace(METHOD, settings={{"gate": {{"kind": "my_idea:gate"}}}})

def gate(settings, correct, n):
    return 0 * correct + 1.0, 0 * correct + BETA

def part(row, streams, advantages):
    return (advantages > 0).to(streams.logprobs.dtype)
"""


def test_a_custom_method_trains_in_another_process(write: Write, tmp_path: Path) -> None:
    """The real job: the training process imports the module, and what it does shows in the records."""
    from hpt.runs.pool import run_jobs
    from hpt.runs.records import load_records
    from tests.digits import digits_config, write_digits

    world = write_digits(tmp_path)
    short = {"schedule__steps": 2, "validation__every": 0}
    configs = []
    for beta in ("1.0", "0.0"):  # a changed module is another run
        write(EVERYTHING.replace("BETA", beta))
        config = resolve_run(digits_config("my_idea:METHOD", world, **short), tmp_path / "runs")
        run_jobs([Job(config, tmp_path / "runs")])
        configs.append(config)
    both, none = (RunFolder.of(config, tmp_path / "runs") for config in configs)
    assert both.path != none.path
    assert (both.path / "own_modules" / "my_idea.py").read_text() == EVERYTHING.replace("BETA", "1.0")
    with_demonstrations, without = (load_records(folder.path).metrics for folder in (both, none))
    assert (with_demonstrations["gate/offline_ratio_prompts"] == 1).all()
    assert (without["gate/offline_ratio_prompts"] == 0).all()
    assert with_demonstrations["trained/demonstration_nll"].notna().all()

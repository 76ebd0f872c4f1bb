"""The report's section on how the world was chosen: its text, which commits, and a clone without history."""

import copy
import subprocess
from pathlib import Path

import pytest

import hpt.history
from hpt.artefacts import world
from hpt.artefacts.world import FIXED, UNKNOWN, FirstRun, bases, changed_claims, first_runs, fixed_before, world_text
from hpt.experiments import PlannedRun
from hpt.export import export_run, load_records, record_folders
from hpt.files import read_json, write_json, write_manifest
from hpt.paper import claim_rows, claims, paper_data
from hpt.scores import pass_at_k
from hpt.search import SEED
from tests.fabricated import fabricate

ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def whole() -> None:
    """Skip where this is no clone with its history."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    if shallow != "false":
        pytest.skip("a shallow clone")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    return fabricate(tmp_path_factory.mktemp("runs"), ["table3"], seeds=(0, SEED))


@pytest.fixture
def records(plan: list[PlannedRun], tmp_path: Path) -> Path:
    for run in plan:
        assert run.folder is not None
        export_run(run.folder, tmp_path / "records")
    return tmp_path / "records"


def stamp(records: Path, start: str, **changed: object) -> None:
    (path,) = [own for own in record_folders(records) if own.name.startswith(start)]
    write_json(path / "provenance.json", read_json(path / "provenance.json") | changed)
    write_manifest(path)


def test_the_first_run_of_hpt_is_the_one_started_first(records: Path) -> None:
    stamp(records, "hpt-weak-s0", finished="2026-01-01T03:00:00+00:00", wall_s=7200.0, commit="a" * 40)
    stamp(records, "hpt-llama-s0", finished="2026-01-01T02:00:00+00:00", wall_s=60.0, commit="b" * 40)
    stamp(records, "grpo-weak-s0", finished="2025-01-01T02:00:00+00:00")
    stamp(records, f"hpt-weak-s{SEED}", finished="2025-06-01T00:00:00+00:00", commit="c" * 40)
    tables, search = first_runs(records)
    assert (tables.kind, tables.commit) == ("the tables and figures", "a" * 40)
    assert tables.started == "2026-01-01T01:00+00:00"
    assert (search.kind, search.commit, search.run[:13]) == ("the search", "c" * 40, f"hpt-weak-s{SEED}"[:13])
    assert first_runs(records / "nowhere") == []


@pytest.mark.usefixtures("whole")
def test_a_run_made_again_counts_from_when_it_was_first_committed() -> None:
    """The first HPT run of the tables was made again two days later, to record one column more."""
    run = first_runs(ROOT / "reports" / "mini" / "records")[0]
    assert (run.commit[:7], run.started[:10]) == ("cc32ca4", "2026-11-24")
    claims_row = next(own for own in fixed_before(run) if "claims" in own["what"])
    assert "section2-grpo-gains-more-on-qwen" in claims_row["after"], "a claim added after that run"


@pytest.mark.usefixtures("whole")
def test_what_changed_after_a_run_is_named() -> None:
    """Against git itself, at the commit before the last one that touched the search."""
    last = git("log", "-1", "--format=%H", "--", *FIXED["the grid of the search"])
    before = FirstRun("the tables and figures", "x", git("rev-parse", f"{last}^"), "")
    row = {own["what"]: own for own in fixed_before(before)}["the grid of the search"]
    assert row["commit"] == last[:12]
    assert last[:12] in row["after"]
    assert git("log", "-1", "--format=%s", last) in row["after"]
    now = FirstRun("the tables and figures", "x", git("rev-parse", "HEAD"), "")
    assert {own["after"] for own in fixed_before(now)} == {"nothing"}


@pytest.mark.usefixtures("whole")
def test_a_commit_that_is_not_here_is_unknown() -> None:
    rows = fixed_before(FirstRun("the tables and figures", "x", "0123456789" * 4, ""))
    assert {own["after"] for own in rows} == {UNKNOWN}
    assert UNKNOWN not in {own["commit"] for own in rows}


@pytest.mark.parametrize("answer", ["true", None])
def test_without_history_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    """A shallow clone has one commit, which every file would be dated to; an archive has no git at all."""
    monkeypatch.setattr(hpt.history, "_git", lambda *arguments: answer)
    for run in (None, FirstRun("the tables and figures", "x", "0" * 40, "")):
        rows = fixed_before(run)
        assert {(own["commit"], own["after"]) for own in rows} == {(UNKNOWN, UNKNOWN)}
    assert changed_claims("0" * 40) == UNKNOWN


def test_changed_claims_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.deepcopy(paper_data())
    monkeypatch.setattr(world, "json_at", lambda commit, path: before)
    assert changed_claims("x") == f"Of {len(claims())} claims: all as they were"
    by_id = {row["id"]: row for row in before["claims"]}
    by_id["table6-gate-0-best"]["parameters"]["threshold_points"] = 1.0
    by_id["figure2-hpt-highest"]["artefact"] = "elsewhere"  # decides nothing
    before["claims"].remove(by_id["figure4-ends-red"])
    before["claims"].append(by_id["figure4-starts-blue"] | {"id": "gone"})
    text = changed_claims("x")
    assert "1 with another reading, test or threshold (table6-gate-0-best)" in text
    assert "1 added (figure4-ends-red)" in text
    assert "1 removed (gone)" in text
    assert [row["id"] for row in claim_rows(paper_data())] == [claim.id for claim in claims()]


def test_bases_are_shown_from_their_records(records: Path) -> None:
    loaded = [load_records(path) for path in record_folders(records)]
    rows = {row["base"].split(" ")[0]: row for row in bases(loaded)}
    assert set(rows) == {"weak", "llama"}
    (weak,) = [own for own in loaded if own.method == "pretrain" and own.policy == "weak"]
    own = weak.evaluations[(weak.evaluations["benchmark"] == "graded-500") & (weak.evaluations["level"] == 5)]
    assert float(rows["weak"]["L5"]) == pytest.approx(100 * (own["correct"] / own["samples"]).mean(), abs=0.0501)
    assert rows["weak"]["choice"] == ""  # Table 3 has no sets out of distribution
    reach = weak.evaluations[(weak.evaluations["benchmark"] == "contest-c") & (weak.evaluations["level"] == 3)]
    enough = reach["samples"].min() >= 8
    expected = f"{100 * pass_at_k(reach['correct'], reach['samples'], 8).mean():.1f}" if enough else ""
    assert rows["weak"]["pass@8, L3"] == expected


def test_the_text_is_that_of_the_page_in_the_documentation() -> None:
    text = str(world_text())
    assert "<h1" not in text
    assert "<h4" in text
    assert "<table" in text
    assert "anchor-link" not in text
    assert "imperfect teacher" in text

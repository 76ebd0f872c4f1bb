"""The committed report against its committed records: they give every CSV again, and every run it names is there."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpt.paper.paper import claim_named
from hpt.reports.build import build_report
from hpt.reports.pages import missing_artefacts
from hpt.runs.catalogue import ARTEFACTS
from hpt.runs.records import record_folders
from hpt.support.files import read_json, read_parquet

REPORT = Path(__file__).resolve().parent.parent / "reports" / "mini"
STATUSES = [read_json(path) for path in sorted((REPORT / "notebooks").glob("*.json"))]
pytestmark = pytest.mark.skipif(not STATUSES, reason="reports/mini holds no report")


def artefacts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of every artefact of the report with the status of its notebook."""
    for status in STATUSES:
        for made in status["artefacts"]:
            yield made["name"], status


def test_every_run_that_is_named_has_its_committed_record() -> None:
    there = {path.name for path in record_folders(REPORT / "records")}
    named = {row["run"]: where for where, status in artefacts() for row in status["runs"]}
    for path in sorted((REPORT / "tables").glob("*.provenance.json")):
        named |= {row["run"]: path.name for row in read_json(path)["runs"]}
    assert {run: where for run, where in named.items() if run not in there} == {}


def test_the_provenance_of_every_run_is_its_records() -> None:
    """What an artefact says of a run is what the record says."""
    rows = {row["run"]: row for _, status in artefacts() for row in status["runs"]}
    for name, row in rows.items():
        recorded = read_json(REPORT / "records" / name / "provenance.json")
        assert [row[key] for key in ("commit", "finished")] == [recorded[key] for key in ("commit", "finished")], name
        steps = read_parquet(REPORT / "records" / name / "metrics.parquet").get("time/step_s")
        assert row["wall_s"] == max(recorded["wall_s"] or 0.0, 0.0 if steps is None else steps.sum()), name


def test_every_file_belongs_to_an_artefact_on_the_page() -> None:
    """A table or figure that an earlier report left would be taken for one of this."""
    names = {name for name, _ in artefacts()}
    for path in [*(REPORT / "tables").iterdir(), *(REPORT / "figures").iterdir()]:
        owner = path.name.partition(".")[0]
        assert owner in names or any(owner.startswith(f"{name}_") for name in names), path.name
    assert names | {row["artefact"] for row in missing_artefacts(REPORT)} >= {
        name for name, own in ARTEFACTS.items() if own.group == "paper"
    }, "an artefact is neither on the page nor among those whose runs are missing"


def test_every_contrast_in_which_hpt_is_worse_stands_on_the_first_page() -> None:
    rows = [row for status in STATUSES for row in status["verdicts"]]
    worse = [row["claim"] for row in rows if row["numbers"]["high"] is not None and row["numbers"]["high"] < 0]
    arms = {name: claim_named(name).methods for name in worse}  # against another of its base's
    worse = [name for name in worse if arms[name][:1] == ("hpt",) and any("@" not in other for other in arms[name][1:])]
    page = (REPORT / "index.html").read_text()
    assert [claim for claim in worse if f"claims.html#claim-{claim}" not in page] == []
    assert worse


def test_every_link_to_a_run_or_a_claim_finds_it() -> None:
    ids: dict[Path, set[str]] = {}
    for page in [*REPORT.glob("*.html"), *(REPORT / "notebooks").glob("*.html")]:
        for target in re.findall(r'href="([^":]*#[^"]+)"', html.unescape(page.read_text())):
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            if there not in ids:
                found = re.findall(r"""id=(["'])(.+?)\1""", html.unescape(there.read_text()))
                ids[there] = {name for _, name in found}
            assert anchor in ids[there], f"{page.name}: {target}"


def test_notebooks_of_the_report_ended_well_and_with_default_settings() -> None:
    for status in STATUSES:
        assert (status["state"], status["settings"], status["scale"]) == ("ok", {}, "mini"), status["notebook"]


#: Parts of the report that take minutes each, and may be made side by side (`conftest.py`).
PARTS = ("bias_variance", "laboratory", "runs")


def part_of(notebook: str) -> str:
    reads_runs = any(own.arms for own in ARTEFACTS.values() if own.notebook == notebook)
    return "runs" if reads_runs else "bias_variance" if notebook == "bias_variance" else "laboratory"


def csv_files(folder: Path, part: str) -> dict[str, bytes]:
    """Name -> content of the part's CSVs; a file is named after its artefact, or begins with that name."""
    notebook = {name: status["notebook"] for name, status in artefacts()}
    found = {}
    for path in sorted((folder / "tables").glob("*.csv")):
        owner = max((name for name in notebook if path.stem.startswith(name)), key=len)
        if part_of(notebook[owner]) == part:
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.ci_slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", PARTS)
def test_the_records_give_every_committed_csv_byte_for_byte(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "records").symlink_to(REPORT / "records", target_is_directory=True)
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for name, status in artefacts():
        if part_of(status["notebook"]) == part:
            by_seeds.setdefault(tuple(status["seeds"]), []).append(name)
    for seeds, names in by_seeds.items():
        build_report("mini", seeds, tmp_path / "no-runs", tmp_path, only=names, from_records=True)
    committed, again = csv_files(REPORT, part), csv_files(folder, part)
    assert committed.keys() == again.keys()
    assert len(committed) >= sum(map(len, by_seeds.values())) > 0
    differ = [name for name, content in committed.items() if content != again[name]]
    assert not differ, "\n".join(_first_difference(name, committed[name], again[name]) for name in differ)


def _first_difference(name: str, committed: bytes, again: bytes) -> str:
    """Return the first line of a CSV that is another one."""
    lines = zip(committed.decode().splitlines(), again.decode().splitlines(), strict=False)
    differ = ((number, *pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1])
    number, left, right = next(differ, (0, "", ""))  # else one is longer
    return f"{name}, line {number}: committed {left[:300]!r}, from its records {right[:300]!r}"


def test_the_readme_shows_what_is_committed() -> None:
    """Every file that the report's README links to is there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPORT / "README.md").read_text()):
        assert (REPORT / target).exists(), target

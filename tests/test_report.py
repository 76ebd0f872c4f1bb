"""The page: everything on it, nothing from the network, all text escaped, the same again from the same records."""

import html
import json
import re
from pathlib import Path

import pytest

from hpt.reports.build import build_report, with_earlier
from hpt.reports.pages import render
from hpt.runs.catalogue import ARTEFACTS, artefacts_named
from hpt.runs.folder import add_checksum
from hpt.runs.records import export_run
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import read_json, write_json
from tests.fabricated import COMMIT, fabricate

SEEDS = (0, 1, 2)

#: Those of the paper; the appendix is asked for by name. This one notebook reads no run, and takes most of a minute;
#: `tests/notebooks` executes it.
NAMES = [own.name for own in artefacts_named([]) if own.notebook != "bias_variance"]
#: The first of its tests executes all the others: two minutes on two idle cores.
pytestmark = pytest.mark.timeout(900)
DOCS = ("../../docs/world.md", "../../docs/metrics.md")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for run in fabricate(folder / "runs", seeds=SEEDS):
        assert run.folder is not None
        export_run(run.folder, folder / "reports" / "tiny" / "records")
    return folder


@pytest.fixture(scope="module")
def report(work: Path) -> Path:
    """The folder of a report that every notebook of the paper's artefacts was executed for, one apart.

    A kernel named python3 is another interpreter, which might hold another copy of the package: it must not be started.
    """
    named, other = work / "jupyter" / "kernels" / "python3", work / "other-python"
    named.mkdir(parents=True)
    other.write_text(f"#!/bin/sh\ntouch {other}-was-started\nexit 1\n")
    other.chmod(0o755)
    write_json(named / "kernel.json", {"argv": [str(other), "{connection_file}"], "display_name": "", "language": ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(work / "jupyter"))
        return build_report("tiny", SEEDS, work / "runs", work / "reports", only=NAMES).parent


def test_notebooks_run_in_the_interpreter_that_runs_the_report(report: Path, work: Path) -> None:
    assert (report / "tables" / "table1.csv").exists()
    assert not (work / "other-python-was-started").exists()


def test_everything_is_there(report: Path) -> None:
    made = {
        str(path.relative_to(report)) for path in report.rglob("*") if path.is_file() and "records" not in str(path)
    }
    notebooks = {ARTEFACTS[name].notebook for name in NAMES}
    statuses = [read_json(path) for path in (report / "notebooks").glob("*.json")]
    kinds = {own["name"]: own["kind"] for status in statuses for own in status["artefacts"]}
    assert set(kinds) == set(NAMES)
    figures, tables = ([name for name in NAMES if kinds[name] == kind] for kind in ("figure", "table"))
    assert {"figure1", "figure5"} <= set(figures)
    assert {"table1", "table2", "audit"} <= set(tables)
    expected = {
        "index.html",
        "README.md",
        "style.css",
        *(f"notebooks/{name}.{end}" for name in notebooks for end in ("html", "json")),
    }
    expected |= {f"figures/{name}.{end}" for name in figures for end in ("png", "svg")}
    expected |= {f"tables/{name}.{end}" for name in tables for end in ("csv", "md", "tex")}
    expected |= {f"tables/{name}.csv" for name in figures}
    assert expected <= made
    assert (report / ".executed" / ".gitignore").read_text() == "*\n"
    # every figure stands in its notebook as lines; one with a path per question would show
    assert max(path.stat().st_size for path in (report / "notebooks").glob("*.html")) < 500_000
    assert (report / "index.html").stat().st_size < 500_000


def test_the_page_says_what_was_found_and_where_it_came_from(report: Path) -> None:
    page = html.unescape((report / "index.html").read_text())
    for text in (
        "its numbers mean nothing", "3 seeds (0, 1, 2)", "not testable here", "+5.0 points (HPT 41.9, SFT 36.9)",
        "HPT maintains higher entropy than GRPO", "../../docs/world.md", COMMIT[:12],
    ):  # fmt: skip
        assert text in page, text
    for run in read_json(report / "notebooks" / "table3_main_results.json")["runs"]:
        assert run["fingerprint"] in page
    readme = (report / "README.md").read_text()
    assert "prefers-color-scheme: dark" in (report / "style.css").read_text()
    assert "| paper | 16.6 | 17.8 | 51.0 | 81.0 | 37.5 | 47.3 | 41.9 |" in readme
    assert "(figures/figure5.svg)" in readme


def test_artefacts_stand_in_the_papers_order(report: Path) -> None:
    page = (report / "index.html").read_text()
    found = re.findall(r'<section id="(\w+)">', page)
    numbered = ["table2", "table3", "table4", "table5", "table6", "figure8", *(f"figure{n}" for n in range(2, 8))]
    assert found == numbered + [name for name in found if name not in numbered]


def test_links_lead_somewhere(report: Path) -> None:
    for page in (report / "index.html", *(report / "notebooks").glob("*.html")):
        for target in re.findall(r"""href=["']([^"'#][^"']*)["']""", page.read_text()):
            if target.startswith("https://arxiv.org/") or target in DOCS:
                continue
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    readme = (report / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target in DOCS or (report / target).exists(), target


def test_pages_load_nothing_from_elsewhere(report: Path) -> None:
    for page in (report / "index.html", *(report / "notebooks").glob("*.html")):
        text = page.read_text()
        sources = re.findall(r"""(?:src|srcset|poster|data)=["']([^"']+)["']""", text) + re.findall(
            r"url\(([^)]+)\)", text
        )
        own = {f"figures/{path.name}" for path in (report / "figures").iterdir()}  # of this report: no network needed
        assert all(source.startswith("data:") or source in own for source in sources), page.name
        assert "@import" not in text
        (sheet,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', text)
        assert (page.parent / sheet).resolve() == report / "style.css"
    assert "url(" not in (report / "style.css").read_text()


def test_pages_name_no_folder_of_this_machine(report: Path) -> None:
    for page in (report / "index.html", report / "README.md", *(report / "notebooks").glob("*")):
        assert not re.search(r"(?<![\w./])/(?:home|root|tmp|work|Users)/", page.read_text()), page.name


def test_from_records_gives_the_same_tables_and_figures_and_says_so(report: Path, work: Path) -> None:
    artefacts = {path: path.read_bytes() for name in ("tables", "figures") for path in (report / name).iterdir()}
    assert len(artefacts) >= 14
    assert "committed records" not in (report / "index.html").read_text()
    build_report("tiny", SEEDS, work / "no-runs", work / "reports", only=["table3"], from_records=True)
    assert {path: path.read_bytes() for path in artefacts} == artefacts
    page = (report / "index.html").read_text()
    assert "Training results are read from committed records" in page
    assert "Figure 7" in page  # made earlier, and still shown


def test_one_figure_made_again_leaves_the_others_of_its_notebook_on_the_page(report: Path, work: Path) -> None:
    status_file = report / "notebooks" / "training_dynamics.json"
    before = read_json(status_file)
    build_report("tiny", SEEDS, work / "runs", work / "reports", only=["figure6"])
    status = read_json(status_file)
    assert status["when"] >= before["when"]
    assert {own["name"] for own in status["artefacts"]} == {"figure5", "figure6", "figure7", "hpt_runs"}
    for what, key in (("verdicts", "claim"), ("runs", "run")):
        assert sorted(row[key] for row in status[what]) == sorted(row[key] for row in before[what])
    (report / "tables" / "figure5.csv").rename(report / "tables" / "away.csv")
    try:  # not what is no longer there
        assert [own["name"] for own in with_earlier({**status, "artefacts": []}, before, report)["artefacts"]] == [
            "figure6",
            "figure7",
            "hpt_runs",
        ]
    finally:
        (report / "tables" / "away.csv").rename(report / "tables" / "figure5.csv")


def test_verdicts_stand_under_their_topics_with_counts(report: Path) -> None:
    page = html.unescape((report / "index.html").read_text())
    bodies = page.partition('id="verdicts"')[2].partition('id="artefacts"')[0].split("<tbody>")[1:]
    rows = {re.findall(r'scope="colgroup">([^:<]+(?:: one[^:<]+)?):', body)[0]: body.count("<tr>") for body in bodies}
    assert next(iter(rows)) == "Main results"
    judged = [row for path in (report / "notebooks").glob("*.json") for row in read_json(path)["verdicts"]]
    assert sum(rows.values()) == len(judged)
    for topic, body in zip(rows, bodies, strict=True):
        counts = re.findall(r"(\d+) [a-z]", body.partition("</th>")[0].partition('colgroup">')[2])
        assert sum(map(int, counts)) == rows[topic]


def test_every_artefact_is_one_click_from_its_runs_and_they_from_their_settings(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert set(re.findall(r'href="#(run-[^"]+)"', page)) == set(re.findall(r'<tr id="(run-[^"]+)"', page))
    for path in (report / "tables").glob("*.provenance.json"):
        section = page.partition(f'<section id="{path.name.partition(".")[0]}">')[2].partition("</section>")[0]
        assert [f"run-{row['run']}" for row in read_json(path)["runs"]] == re.findall(r'href="#(run-[^"]+)"', section)
    assert len(re.findall(r'href="records/[^"]+/config.json"', page)) == page.count('<tr id="run-')


def test_rendering_again_changes_nothing(report: Path) -> None:
    before = (report / "index.html").read_bytes(), (report / "README.md").read_bytes()
    render(report, "tiny")
    assert ((report / "index.html").read_bytes(), (report / "README.md").read_bytes()) == before


def test_missing_runs_are_not_computed_by_a_report(work: Path, tmp_path: Path) -> None:
    # every arm of the paper once; the bases are there
    arms = {arm.key for artefact in artefacts_named([]) for arm in artefact.arms}
    with pytest.raises(HptError, match=rf"^{len(arms)} runs are missing .* seed 9 .*`hpt reproduce --scale tiny`"):
        build_report("tiny", [9], work / "runs", tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only = 'table9': allowed is one of table2, table3"):
        build_report("tiny", [0], tmp_path / "runs", tmp_path / "reports", only=["table9"])
    with pytest.raises(ConfigError, match="scale = 'huge'"):
        build_report("huge", [0], tmp_path / "runs", tmp_path / "reports")
    with pytest.raises(ConfigError, match=r"--from-records = .*a folder that holds records"):
        build_report("tiny", [0], tmp_path / "runs", tmp_path / "reports", from_records=True)
    assert not list(tmp_path.iterdir())


def test_a_failed_notebook_is_told_on_the_page(tmp_path: Path) -> None:
    plan = fabricate(tmp_path / "runs", ["table3"])
    grpo = next(run.folder for run in plan if run.method == "grpo")
    assert grpo is not None
    file = next((grpo.path / "evaluations").iterdir())
    file.write_bytes(b"")
    add_checksum(grpo, file)  # what no checksum finds
    with pytest.raises(HptError, match=r"failed: table3_main_results; .*index\.html says why"):
        build_report("tiny", [0], tmp_path / "runs", tmp_path / "reports", only=["table3"])
    page = html.unescape((tmp_path / "reports" / "tiny" / "index.html").read_text())
    assert "RecordFault" in page
    assert file.name in page
    assert "No claim was tested" in page
    assert "failed" in (tmp_path / "reports" / "tiny" / "README.md").read_text()


def test_text_of_models_and_users_is_escaped(report: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "tiny"
    for name in ("table3_main_results", "training_dynamics"):
        status = read_json(report / "notebooks" / f"{name}.json")
        status = json.loads(re.sub(r"(hpt-weak|HPT|\+ points|weak base|0123456789ab)", evil, json.dumps(status)))
        status |= {"settings": {evil: evil}, "state": "failed", "error": evil, "notebook": status["notebook"]}
        for verdict in status["verdicts"]:
            verdict |= {"explanation": evil, "ours": evil, "verdict": evil}
        for made in status["artefacts"]:
            made["name"] = made["name"].replace(evil, "")
            made["html"] = ""  # HTML already, escaped where it is made (tests/test_frames.py)
        write_json(folder / "notebooks" / f"{name}.json", status)
    for name in ("tables", "figures"):
        (folder / name).mkdir()
        for path in (report / name).iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
    page = render(folder, "tiny").read_text()
    assert page.count("<script") == 1  # the one that sorts
    assert page.count("&lt;script&gt;") > 20
    assert "<script" not in (folder / "README.md").read_text()

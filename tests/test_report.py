"""The page: everything on it, nothing from the network, all text escaped, the same again from the same records."""

import html
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

from hpt.paper.paper import claims
from hpt.reports.build import build_report, with_earlier
from hpt.reports.pages import render
from hpt.reports.verdicts import SECTIONS, section_of
from hpt.runs.catalogue import ARTEFACTS, artefacts_named
from hpt.runs.folder import add_checksum
from hpt.runs.records import export_run
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import read_json, write_json
from hpt.upge.estimator import ROWS
from tests.fabricated import COMMIT, fabricate

SEEDS = (0, 1, 2)
NAMES = [own.name for own in artefacts_named([])]
NOTEBOOKS = list(dict.fromkeys(own.notebook for own in ARTEFACTS.values() if own.group != "next"))
#: How many compute in their kernel, as they are meant to: Table 1, the derivation, three on bias and variance.
LABORATORY = 5
#: The first of its tests executes every notebook: four minutes on an idle core.
pytestmark = pytest.mark.timeout(1500)
DOCS = ("../../docs/world.md", "../../docs/metrics.md")
#: Imported first by every kernel: writes down which of them looks for an engine, and in which cell.
WATCH = """
import os, sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("torch", "vllm", "deepspeed") and "ipykernel" in sys.modules:
            cell = sys.modules["IPython"].get_ipython().user_ns["In"][-1]
            with open(os.environ["HPT_TEST_IMPORTS"], "a") as file:
                file.write(f"{os.getpid()} {name} in {cell[:500]!r}\\n")

sys.meta_path.insert(0, Watch)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs (``runs``) and their records; the appendix has many arms, and one seed executes its notebooks."""
    folder = tmp_path_factory.mktemp("work")
    for names, seeds, reports in ((), SEEDS, "reports"), (("appendix",), (0,), "appendix"):
        for run in fabricate(folder / "runs", names, seeds):
            export_run(run.folder, folder / reports / "tiny" / "records")
    return folder


@pytest.fixture(scope="module")
def report(work: Path) -> Path:
    """The folder of a report from records, for which every notebook of the paper was executed, with no run there.

    The appendix is made beside it. A kernel named python3 is another interpreter, which might hold another copy of the
    package: it must not be started.
    """
    named, other, watch = work / "jupyter" / "kernels" / "python3", work / "other-python", work / "watch"
    for folder in (named, watch):
        folder.mkdir(parents=True)
    other.write_text(f"#!/bin/sh\ntouch {other}-was-started\nexit 1\n")
    other.chmod(0o755)
    write_json(named / "kernel.json", {"argv": [str(other), "{connection_file}"], "display_name": "", "language": ""})
    (watch / "sitecustomize.py").write_text(WATCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(work / "jupyter"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(watch), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("HPT_TEST_IMPORTS", str(work / "imports.txt"))
        build_report("tiny", [0], work / "none", work / "appendix", only=["appendix"], from_records=True)
        return build_report("tiny", SEEDS, work / "none", work / "reports", only=NAMES, from_records=True).parent


def csv(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def text_of(report: Path, page: str) -> str:
    return html.unescape((report / f"{page}.html").read_text())


def check_derivation(folder: Path) -> None:
    data = csv(folder, "derivation")
    identities, ends = data[data["identity"]], data[~data["identity"]]
    assert identities["same"].all()
    assert identities["largest"].isna().all()
    assert ends["same"].isna().all()
    assert (ends["smallest"] > 0.01).all()
    shown = (folder / "tables" / "derivation.md").read_text()
    assert (shown.count("| yes |"), shown.count("| ends here |")) == (len(identities), len(ends))


def check_table1(folder: Path) -> None:
    rows, choices, tokens = (csv(folder, name) for name in ("table1", "figure1", "figure1_tokens"))
    assert rows["row"].tolist() == list(ROWS)
    assert rows["same"].all()
    for _, own in choices.groupby("part"):  # every row makes one choice of every part
        assert sorted(", ".join(own["rows"]).split(", ")) == sorted(ROWS)
    acts = tokens[tokens["mask"].notna()]
    assert (acts["mask"].isin([0, 1])).all()


def check_checkpoints(folder: Path) -> None:
    errors, questions = csv(folder, "checkpoint_error"), csv(folder, "checkpoint_error_questions")
    assert len(errors) == errors["step"].nunique() * errors["row"].nunique()
    assert (errors["error_low"] <= errors["error"] + 1e-6).all()
    assert questions["question"].nunique() == len(questions[["step", "problem"]].drop_duplicates())
    own = questions[(questions["step"] == 0) & (questions["row"] == "grpo")]
    truth = own["size"].sum() / own["truth_square"].sum()
    assert errors[errors["step"] == 0]["truth_cosine"].unique() == pytest.approx([truth], rel=1e-4)


def check_audit(folder: Path) -> None:
    checks, shown = csv(folder, "audit"), (folder / "tables" / "audit.md").read_text()
    assert {"GPQA, k of 198", "Table 2, SRFT, strong base", "gate 1/8"} <= {*checks["what"], *checks["group"].str[11:]}
    # nothing inconsistent is hidden, but for the size that is only supposed
    hidden = checks[(checks["verdict"] == "inconsistent") & ~checks["group"].str.contains("674")]
    assert all(what in shown for what in hidden["what"])


CHECKS = {"derivation": check_derivation, "table1_estimator": check_table1,
          "checkpoint_error": check_checkpoints, "audit": check_audit}  # fmt: skip


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_makes_its_artefacts_and_judges_its_claims(name: str, report: Path, work: Path) -> None:
    kind, folder = "paper", report
    if not (report / "notebooks" / f"{name}.json").exists():
        kind, folder = "appendix", work / "appendix" / "tiny"
    group = [own.name for own in ARTEFACTS.values() if own.notebook == name and own.group == kind]
    executed = nbformat.read(folder / ".executed" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    shown = "\n".join(output.get("data", {}).get("text/html", output.get("text", "")) for output in outputs)
    status = read_json(folder / "notebooks" / f"{name}.json")
    assert status["from_records"] is True
    tested = [claim for claim in claims() if claim.artefact in group and not claim.scale]
    assert [row["claim"] for row in status["verdicts"]] == [claim.id for claim in tested]
    # scale tiny; what needs no run is judged there too
    assert ("not testable here" in shown) == any(claim.methods for claim in tested)
    assert {made["name"] for made in status["artefacts"]} == set(group)
    for made in status["artefacts"]:
        assert (folder / "tables" / f"{made['name']}.csv").stat().st_size > 100
        assert made["title"] in shown
    assert all(row["run"] in shown for row in status["runs"])
    assert "<script" not in shown
    if check := CHECKS.get(name):
        check(folder)


def test_no_run_is_made_for_a_report_and_no_kernel_that_reads_runs_imports_an_engine(report: Path, work: Path) -> None:
    """An engine costs seconds and hundreds of megabytes in every open notebook, for training that happens elsewhere."""
    assert not (work / "none").exists()
    imports = {line.partition(" ")[0]: line for line in (work / "imports.txt").read_text().splitlines()}
    assert len(imports) == LABORATORY, "\n".join(imports.values())


def test_notebooks_run_in_the_interpreter_that_runs_the_report(report: Path, work: Path) -> None:
    assert (report / "tables" / "table1.csv").exists()
    assert not (work / "other-python-was-started").exists()


def test_everything_is_there(report: Path) -> None:
    made = {str(path.relative_to(report)) for path in report.rglob("*") if "records" not in path.parts}
    notebooks = {ARTEFACTS[name].notebook for name in NAMES}
    statuses = [read_json(path) for path in (report / "notebooks").glob("*.json")]
    kinds = {own["name"]: own["kind"] for status in statuses for own in status["artefacts"]}
    assert set(kinds) == set(NAMES)
    figures, tables = ([name for name in NAMES if kinds[name] == kind] for kind in ("figure", "table"))
    assert {"figure1", "figure5"} <= set(figures)
    assert {"table1", "table2", "audit"} <= set(tables)
    expected = {
        *("index.html", "claims.html", "provenance.html", "README.md", "claims.md", "style.css"),
        *(f"{section_of(name).name}.html" for name in NAMES),
        *(f"notebooks/{name}.{end}" for name in notebooks for end in ("html", "json")),
    }
    expected |= {f"figures/{name}.{end}" for name in figures for end in ("png", "svg")}
    expected |= {f"tables/{name}.{end}" for name in tables for end in ("csv", "md", "tex")}
    expected |= {f"tables/{name}.csv" for name in figures}
    assert expected <= made
    assert (report / ".executed" / ".gitignore").read_text() == "*\n"
    # every figure stands in its notebook as lines; one with a path per question would show
    assert max(path.stat().st_size for path in (report / "notebooks").glob("*.html")) < 500_000
    assert max(path.stat().st_size for path in report.glob("*.html")) < 500_000
    for page in (text_of(report, "index"), (report / "README.md").read_text()):
        assert len(re.sub(r"<[^>]+>", " ", page).split()) < 3000  # five minutes of reading


def test_the_page_says_what_was_found_and_where_it_came_from(report: Path) -> None:
    for page, texts in {
        "index": ("its numbers mean nothing", "3 seeds (0, 1, 2)", "not testable here", "HPT above LUFFY, strong base"),
        "claims": ("+5.0 points (HPT 41.9, SFT 36.9)", "HPT maintains higher entropy than GRPO", "cited from Yue"),
        "provenance": ("../../docs/world.md", COMMIT[:12]),
    }.items():
        for text in texts:
            assert text in text_of(report, page), text
    for run in read_json(report / "notebooks" / "table3_main_results.json")["runs"]:
        assert run["fingerprint"] in text_of(report, "provenance")
    readme = (report / "README.md").read_text()
    assert "prefers-color-scheme: dark" in (report / "style.css").read_text()
    assert "(tables/table3.md)" in readme
    assert "(figures/figure5.svg)" in readme
    (row,) = re.findall(r"\| HPT \|(.*)", (report / "tables" / "table3.md").read_text())[1:]
    assert [cell.strip() for cell in row.split("|")][1::2] == "16.6 17.8 51.0 81.0 37.5 47.3 41.9".split()


def test_every_artefact_stands_once_on_the_page_of_its_subject(report: Path) -> None:
    for section in SECTIONS:
        expected = [name for name in section.artefacts if name in NAMES]
        assert (report / f"{section.name}.html").exists() is bool(expected)
        if expected:
            assert re.findall(r'<section id="(\w+)">', text_of(report, section.name)) == expected
            assert f'href="{section.name}.html"' in (report / "index.html").read_text()


def test_links_lead_somewhere(report: Path) -> None:
    for page in (*report.glob("*.html"), *(report / "notebooks").glob("*.html")):
        for _, target in re.findall(r"""href=(["'])(.+?)\1""", html.unescape(page.read_text())):
            if target.startswith("https://arxiv.org/") or target in DOCS:
                continue
            file, _, anchor = target.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or f'id="{anchor}"' in html.unescape(there.read_text()), f"{page.name}: {target}"
    for page in report.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target in DOCS or (report / target).exists(), target


def test_pages_load_nothing_from_elsewhere(report: Path) -> None:
    for page in (*report.glob("*.html"), *(report / "notebooks").glob("*.html")):
        text = page.read_text()
        sources = re.findall(r"""(?:src|srcset|poster|data)=["']([^"']+)["']""", text) + re.findall(
            r"url\(([^)]+)\)", text
        )
        # of this report: no network needed
        own = {str(report / "page.js"), *(str(path) for path in (report / "figures").iterdir())}
        files = {str((page.parent / source).resolve()) for source in sources if not source.startswith("data:")}
        assert files <= own, page.name
        assert "@import" not in text
        (sheet,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', text)
        assert (page.parent / sheet).resolve() == report / "style.css"
    assert "url(" not in (report / "style.css").read_text()


def test_pages_name_no_folder_of_this_machine(report: Path) -> None:
    for page in (*report.glob("*.html"), *report.glob("*.md"), *(report / "notebooks").glob("*")):
        assert not re.search(r"(?<![\w./])/(?:home|root|tmp|work|Users)/", page.read_text()), page.name


def test_runs_give_the_same_tables_and_figures_as_their_records(report: Path, work: Path) -> None:
    artefacts = {path: path.read_bytes() for name in ("tables", "figures") for path in (report / name).iterdir()}
    assert len(artefacts) >= 14
    assert "Training results are read from committed records" in text_of(report, "provenance")
    build_report("tiny", SEEDS, work / "runs", work / "reports", only=["table3"])
    assert {path: path.read_bytes() for path in artefacts} == artefacts
    assert read_json(report / "notebooks" / "table3_main_results.json")["from_records"] is False
    assert "Figure 7" in text_of(report, "dynamics")  # made earlier, and still shown


def test_one_figure_made_again_leaves_the_others_of_its_notebook_on_the_page(report: Path, work: Path) -> None:
    status_file = report / "notebooks" / "training_dynamics.json"
    before = read_json(status_file)
    build_report("tiny", SEEDS, work / "runs", work / "reports", only=["figure6"])
    figure = {path: path.read_bytes() for path in report.glob("*/figure6.*")}
    assert len(figure) >= 3
    build_report("tiny", SEEDS, work / "runs", work / "reports", only=["figure6"])
    assert {path: path.read_bytes() for path in figure} == figure
    status = read_json(status_file)
    assert status["when"] >= before["when"]
    assert {own["name"] for own in status["artefacts"]} == {"figure5", "figure6", "figure7", "hpt_runs", "algorithm1"}
    for what, key in (("verdicts", "claim"), ("runs", "run")):
        assert sorted(row[key] for row in status[what]) == sorted(row[key] for row in before[what])
    (report / "tables" / "figure5.csv").rename(report / "tables" / "away.csv")
    try:  # not what is no longer there
        kept = with_earlier({**status, "artefacts": []}, before, report)["artefacts"]
        assert [own["name"] for own in kept] == ["figure6", "figure7", "hpt_runs", "algorithm1"]
    finally:
        (report / "tables" / "away.csv").rename(report / "tables" / "figure5.csv")


def test_verdicts_stand_under_their_topics_with_counts(report: Path) -> None:
    blocks = re.findall(r'<details class="block" id="(\w+)"><summary>(.*?)</summary>(.*?)</table>',
                        text_of(report, "claims"), re.DOTALL)  # fmt: skip
    assert blocks[0][0] == "main_results"
    judged = [row for path in (report / "notebooks").glob("*.json") for row in read_json(path)["verdicts"]]
    for name, summary, body in blocks:
        its = [row["claim"] for row in judged if section_of(row["artefact"]).name == name]
        assert sorted(re.findall(r'<tr id="claim-([^"]+)">', body)) == sorted(its)
        assert sum(map(int, re.findall(r"(\d+) (?:is|are|holds?|does|do)\b", summary))) == len(its)
    assert sum(body.count("<tr id=") for *_, body in blocks) == len(judged)


def test_every_artefact_is_one_click_from_its_runs_and_they_from_their_settings(report: Path) -> None:
    listed = (report / "provenance.html").read_text()
    for path in (report / "tables").glob("*.provenance.json"):
        name = path.name.partition(".")[0]
        page = (report / f"{section_of(name).name}.html").read_text()
        section = page.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        runs = [f"run-{row['run']}" for row in read_json(path)["runs"]]
        assert runs == re.findall(r'href="provenance.html#(run-[^"]+)"', section)
        assert all(f'<tr id="{run}"' in listed for run in runs)
    assert len(re.findall(r'href="records/[^"]+/config.json"', listed)) == listed.count('<tr id="run-')


def test_every_file_says_where_it_comes_from(report: Path) -> None:
    for name in ("tables/table3.md", "tables/table3.tex", "figures/figure6.svg"):
        assert COMMIT[:12] in (report / name).read_text(), name
    with Image.open(report / "figures" / "figure6.png") as image:
        assert COMMIT[:12] in json.dumps(image.info)
    for name in ("table3", "figure6"):
        sources = read_json(report / "tables" / f"{name}.provenance.json")["runs"]
        assert all(row["fingerprint"] == row["run"][-16:] and row["commit"] == COMMIT for row in sources)
        assert sources


def test_rendering_again_changes_nothing(report: Path) -> None:
    before = {path: path.read_bytes() for path in report.iterdir() if path.is_file()}
    render(report, "tiny")
    assert {path: path.read_bytes() for path in before} == before


def test_missing_runs_and_mistakes_are_named_before_anything_runs(work: Path, tmp_path: Path) -> None:
    # every arm of the paper once, and its base
    arms = [arm for artefact in artefacts_named([]) for arm in artefact.arms]
    count = len({arm.key for arm in arms} | {arm.policy for arm in arms})
    with pytest.raises(HptError, match=rf"^{count} runs are missing .* seed 9 .*`hpt reproduce` .* computes them"):
        build_report("tiny", [9], work / "runs", tmp_path)
    with pytest.raises(ConfigError, match="only = 'table9': allowed is one of table2, table3"):
        build_report("tiny", [0], work / "runs", tmp_path, only=["table9"])
    with pytest.raises(ConfigError, match="scale = 'huge'"):
        build_report("huge", [0], work / "runs", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_notebook_is_told_on_the_page(tmp_path: Path) -> None:
    plan = fabricate(tmp_path / "runs", ["table3"])
    grpo = next(run.folder for run in plan if run.method == "grpo")
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
        shutil.copytree(report / name, folder / name)
    render(folder, "tiny")
    pages = [page.read_text() for page in folder.glob("*.html")]
    assert {page.count("<script") for page in pages} == {1}  # the one that sorts
    assert sum(page.count("&lt;script&gt;") for page in pages) > 20
    assert not any("<script" in page.read_text() for page in folder.glob("*.md"))

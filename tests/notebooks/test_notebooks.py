"""The notebooks: tidy sources, strict parameters, and each executed by papermill as a user would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from hpt.catalogue import ARTEFACTS
from hpt.errors import ConfigError, RecordFault
from hpt.export import export_run
from hpt.notebook import plan, project_path
from hpt.paper import claims
from hpt.parameters import parameters
from tests.digits import write_digits
from tests.fabricated import fabricate

pytestmark = pytest.mark.timeout(900)  # a busy machine takes minutes where an idle one takes seconds

EVERY = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
#: A training loop for a reader's own code: it makes no artefact of the paper and reads no run.
(OWN_LOOP,) = [path for path in EVERY if path.stem == "own_loop"]
SOURCES = [path for path in EVERY if path != OWN_LOOP]
PARTS = ("# ", "## Parameters", "## What will run, and how long", "## Run, or load", "## The result",
         "## What differs from the paper's setting", "## Provenance")  # fmt: skip
COMMON: dict[str, type] = {
    "scale": str, "seeds": list, "settings": dict, "runs_dir": str, "from_records": str, "output_dir": str,
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs (``runs``) and their records (``records``), three seeds."""
    folder = tmp_path_factory.mktemp("work")
    # the appendix has many arms, and its notebooks need no more than one seed to be executed
    for run in (*fabricate(folder / "runs", seeds=(0, 1, 2)), *fabricate(folder / "runs", ("appendix",), seeds=(0,))):
        assert run.folder is not None
        export_run(run.folder, folder / "records")
    return folder


def execute(source: Path, out: Path, **given: Any) -> nbformat.NotebookNode:
    papermill.execute_notebook(source, out, given, kernel_name="python3", progress_bar=False)
    return nbformat.read(out, as_version=4)


def printed(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(
        output.get("data", {}).get("text/html", output.get("text", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize("source", EVERY, ids=lambda path: path.stem)
def test_sources_are_tidy(source: Path) -> None:
    """Mend with `.venv/bin/nbstripout --keep-id notebooks/*.ipynb` and `.venv/bin/ruff format notebooks`."""
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert set(cell.metadata) <= {"tags"}
        # a cell that writes a module of the reader's own is that module
        assert "def " not in cell.source or cell.cell_type == "markdown" or cell.source.startswith("%%writefile ")
        assert "except" not in cell.source or cell.cell_type == "markdown"
    headings = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    parts = PARTS if source in SOURCES else PARTS[:2]
    found = [next((line for line in headings if line.startswith(part)), None) for part in parts]
    assert None not in found
    assert [headings.index(str(line)) for line in found] == sorted(headings.index(str(line)) for line in found)


@pytest.mark.parametrize("source", EVERY, ids=lambda path: path.stem)
def test_every_parameter_has_a_comment_that_papermill_can_show(source: Path) -> None:
    found = papermill.inspect_notebook(source)
    notebook = nbformat.read(source, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = re.findall(r"^(\w+) =", cell.source, flags=re.MULTILINE)
    assert list(found) == assigned
    assert source == OWN_LOOP or set(COMMON) <= set(assigned)
    assert all(len(own["help"]) > 20 for own in found.values())


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_runs_alone_from_records(source: Path, work: Path, tmp_path: Path) -> None:
    made_here = {artefact.name: artefact for artefact in ARTEFACTS.values() if artefact.notebook == source.stem}
    seeds = [0, 1, 2] if any(artefact.group == "paper" for artefact in made_here.values()) else [0]
    notebook = execute(
        source, tmp_path / "out.ipynb", scale="tiny", seeds=seeds, from_records=str(work / "records"),
        runs_dir=str(tmp_path / "none"), output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    shown = printed(notebook)
    status = json.loads((tmp_path / "out" / "notebooks" / f"{source.stem}.json").read_text())
    assert status["from_records"] is True
    tested = [claim for claim in claims() if claim.artefact in made_here]
    assert [row["claim"] for row in status["verdicts"]] == [claim.id for claim in tested]
    # scale tiny; what needs no run is judged there too
    assert ("not testable here" in shown) == any(claim.methods for claim in tested)
    assert {made["name"] for made in status["artefacts"]} == set(made_here)
    assert not (tmp_path / "none").exists()
    for made in status["artefacts"]:
        assert (tmp_path / "out" / "tables" / f"{made['name']}.csv").stat().st_size > 100
        assert made["title"] in shown
    assert all(row["run"] in shown for row in status["runs"])
    assert "<script" not in shown


def test_table3_shows_the_papers_value_beside_ours_with_an_interval(work: Path, tmp_path: Path) -> None:
    (source,) = [own for own in SOURCES if own.stem == "table3_main_results"]
    # as the command line passes them: text
    notebook = execute(source, tmp_path / "out.ipynb", scale="tiny", seeds="[0, 1, 2]", runs_dir=str(work / "runs"))
    shown = printed(notebook)
    assert "Nothing is left to compute." in shown
    assert re.search(r"<b>\d+\.\d</b><br><small class='interval'>\[\d+\.\d, \d+\.\d\]</small>", shown)
    assert "paper 41.9" in shown
    assert "stands for AIME 24" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ipynb"]  # nothing is written unasked


def test_own_loop_learns_and_leaves_sft_for_rl(tmp_path: Path) -> None:
    """A new model that solves nothing learns from demonstrations first, and then from its own rollouts."""
    shown = printed(execute(OWN_LOOP, tmp_path / "out.ipynb", steps=60))
    reward, sft = (
        re.search(rf"{name}: ([\d.]+)\D+([\d.]+)", shown) for name in ("reward", "questions that learn by SFT")
    )
    assert reward is not None
    assert sft is not None
    assert float(reward[1]) < 0.05 < 0.15 < float(reward[2])
    assert float(sft[1]) > 0.8 > 0.5 > float(sft[2])


@pytest.mark.ci_slow
def test_own_loop_takes_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND")  # a kernel then shows figures in the notebook, as a reader's does
    notebook = execute(
        OWN_LOOP, tmp_path / "out.ipynb", steps=1, questions_per_step=2, rollouts=2,
        model_folder=str(write_digits(tmp_path) / "model"),
    )  # fmt: skip
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


def test_one_figure_alone(work: Path, tmp_path: Path) -> None:
    (source,) = [own for own in SOURCES if own.stem == "training_dynamics"]
    execute(
        source, tmp_path / "out.ipynb", scale="tiny", only=["figure6"], runs_dir=str(work / "runs"),
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out" / "figures").iterdir()) == ["figure6.png", "figure6.svg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sedes": [0]}, r"sedes = \[0\]: allowed is a parameter of this notebook: scale, seeds"),
        ({"settings": {"gate.cuont": 2}}, r"gate\.cuont = 2: .*did you mean count"),
    ],
)
def test_papermill_stops_at_a_wrong_parameter_before_anything_is_computed(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(papermill.PapermillExecutionError, match=message) as error:
        execute(SOURCES[0], tmp_path / "out.ipynb", scale="tiny", runs_dir=str(tmp_path / "runs"), **given)
    assert error.value.ename == "ConfigError"
    assert not (tmp_path / "runs").exists()


def test_a_kernel_imports_neither_torch_nor_vllm(work: Path) -> None:
    """Both cost seconds and hundreds of megabytes in every open notebook, for training that happens elsewhere.

    Every notebook that reads runs, and the audit; the laboratory's compute in the kernel, as they are meant to.
    """
    code = (
        "import sys, json\n"
        "from hpt.catalogue import ARTEFACTS\n"
        "from hpt.notebook import plan\n"
        "loaded = {}\n"
        "for notebook in dict.fromkeys(artefact.notebook for artefact in ARTEFACTS.values()):\n"
        "    names = [name for name, artefact in ARTEFACTS.items() if artefact.notebook == notebook]\n"
        "    given = dict(scale='tiny', seeds=[0], settings={}, runs_dir=sys.argv[1], from_records='', output_dir='')\n"
        "    study = plan(notebook, names, given)\n"
        "    if study.planned or notebook == 'audit':\n"
        "        study.to_run(); records = study.records()\n"
        "        for name in names:\n"
        "            study.show(name, records)\n"
        "        study.claims(records); study.finish(records)\n"
        "        loaded[notebook] = [name for name in ('torch', 'vllm', 'deepspeed') if name in sys.modules]\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(work / "runs")], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    loaded = json.loads(done.stdout.splitlines()[-1])
    laboratory = {"table1_estimator", "derivation", "bias_variance", "checkpoint_error"}
    assert set(loaded) == {source.stem for source in SOURCES} - laboratory
    assert {notebook: names for notebook, names in loaded.items() if names} == {}


def cells(*sources: str, **names: Any) -> dict[str, Any]:
    """A kernel's namespace after these cells."""
    return {"In": ["", *sources], "Out": {}, **names}


OWN = "# Parameters: of this notebook\nscale = 'mini'\nseeds = [0]"


def test_parameters_come_back_typed() -> None:
    injected = '# Parameters\nscale = "tiny"\nseeds = "[0, 1]"\n'
    namespace = cells(OWN, injected, "from x import y", scale="tiny", seeds="[0, 1]", records=[1], table={})
    assert parameters(namespace, scale=str, seeds=list) == {"scale": "tiny", "seeds": [0, 1]}
    assert parameters({"share": 1}, share=float) == {"share": 1}


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        (cells(OWN, "# Parameters\nsclae = 1\n", scale="mini", seeds=[0], sclae=1), "sclae = 1"),
        (cells(OWN + "\nextra: int = 3", scale="mini", seeds=[0], extra=3), "extra = 3"),
        ({"scale": "mini", "seeds": [0], "more": 1.5}, r"more = 1\.5"),
        (cells(OWN, scale=3, seeds=[0]), "scale = 3: allowed is text"),
        (cells(OWN, scale="mini", seeds="[0"), r"seeds = '\[0': allowed is a list, as JSON"),
        (cells(OWN, scale="mini", seeds='{"a": 1}'), "seeds = .*allowed is a list"),
        (cells("x = 1", scale="mini"), "seeds = None: .*run the parameters cell first"),
        ({"scale": True, "seeds": [0]}, "scale = True"),
    ],
)
def test_wrong_parameters_are_refused(namespace: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameters(namespace, scale=str, seeds=list)


def test_a_flag_is_not_a_number() -> None:
    with pytest.raises(ConfigError, match="count = True: allowed is a whole number"):
        parameters({"count": True}, count=int)


def test_a_corrected_name_is_forgotten() -> None:
    """The history of a kernel keeps the cell with the misspelt name; only the corrected one counts."""
    namespace = cells(OWN + "\nsede = 1", "parameters(...)", OWN, scale="mini", seeds=[0], sede=1, scratch=3)
    assert parameters(namespace, scale=str, seeds=list) == {"scale": "mini", "seeds": [0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "huge"}, "scale = 'huge': allowed is one of tiny, mini"),
        ({"seeds": []}, "seeds = .*different whole numbers"),
        ({"seeds": [0, 0]}, "seeds = .*different whole numbers"),
        ({"seeds": [True]}, "seeds = .*different whole numbers"),
        ({"seeds": ["0"]}, "seeds = .*different whole numbers"),
        ({"only": ["figure9"]}, "only = 'figure9': allowed is some of table3"),
        ({"from_records": "no-such-folder"}, "from_records = .*allowed is a folder of records"),
        ({"settings": {"gate.count": 99}}, "gate.count = 99"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {
        "scale": "tiny", "seeds": [0], "settings": {}, "runs_dir": str(tmp_path), "from_records": "", "output_dir": "",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        plan("table3_main_results", ["table3"], given | change)


def test_a_missing_record_says_which(work: Path, tmp_path: Path) -> None:
    given = {
        "scale": "tiny", "seeds": [0, 5], "settings": {}, "runs_dir": str(tmp_path), "output_dir": "",
        "from_records": str(work / "records"),
    }  # fmt: skip
    with pytest.raises(RecordFault, match="no record of LUFFY on the weak base, seed 5 with these settings; compute"):
        plan("table3_main_results", ["table3"], given).records()


def test_the_plan_says_how_long_missing_runs_will_take(work: Path) -> None:
    given = {"seeds": [0, 7], "settings": {}, "runs_dir": str(work / "runs"), "from_records": "", "output_dir": ""}
    shown = plan("table3_main_results", ["table3"], given | {"scale": "tiny"}).to_run()
    # two bases, on each four methods with two seeds, of which one is missing
    said = (
        r"8 of 18 runs are left to compute, about \d+ (s|min) on one idle core, judging by \d+ runs finished here and "
    )
    assert re.match(said, shown.text)
    done = plan("table3_main_results", ["table3"], given | {"scale": "tiny", "seeds": [0]}).to_run()
    assert done.text == "Nothing is left to compute."


def test_relative_folders_start_at_the_project_also_inside_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == (tmp_path / "runs").resolve()
    assert project_path("/somewhere/else") == Path("/somewhere/else")

"""The notebooks: tidy sources, strict parameters, papermill as a user types it; `tests/test_report.py` executes all."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from hpt.reports import begin
from hpt.reports.notebooks import Study, project_path
from hpt.reports.parameters import COMMON, read_parameters
from hpt.runs.catalogue import ARTEFACTS
from hpt.support.errors import ConfigError
from tests.digits import write_digits
from tests.fabricated import fabricate

pytestmark = pytest.mark.timeout(900)  # a busy machine takes minutes where an idle one takes seconds

EVERY = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
#: A training loop for a reader's code: it makes no artefact of the paper and reads no run.
(OWN_LOOP,) = [path for path in EVERY if path.stem == "own_loop"]
SOURCES = [path for path in EVERY if path != OWN_LOOP]
PARTS = ("# ", "## Parameters", "## What will run, and how long", "## The result",
         "## What differs from the paper's setting", "## Provenance")  # fmt: skip


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 3's finished runs, three seeds."""
    folder = tmp_path_factory.mktemp("runs")
    fabricate(folder, ("table3",), seeds=(0, 1, 2))
    return folder


def execute(source: Path, folder: Path, **given: Any) -> nbformat.NotebookNode:
    out = folder / "out.ipynb"
    papermill.execute_notebook(source, out, given, kernel_name="python3", progress_bar=False)
    return nbformat.read(out, as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(own.get("data", {}).get("text/html", own.get("text", "")) for own in outputs(notebook))


def code_cells(source: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("source", EVERY, ids=lambda path: path.stem)
def test_sources_are_tidy(source: Path) -> None:
    """Repair with `.venv/bin/nbstripout --keep-id notebooks/*.ipynb` and `.venv/bin/ruff format notebooks`."""
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert set(cell.metadata) <= {"tags"}
        assert set(cell.metadata.get("tags", [])) <= {"parameters", *ARTEFACTS}
        # a cell that writes the reader's module is that module, and what sliders move is a function
        shows_def = cell.source.startswith("%%writefile ") or "study.sliders(" in cell.source
        assert "def " not in cell.source or cell.cell_type == "markdown" or shows_def
        assert "except" not in cell.source or cell.cell_type == "markdown"
    headings = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    parts = PARTS if source in SOURCES else PARTS[:2]
    found = [next((line for line in headings if line.startswith(part)), None) for part in parts]
    assert None not in found
    assert [headings.index(str(line)) for line in found] == sorted(headings.index(str(line)) for line in found)


@pytest.mark.parametrize("source", EVERY, ids=lambda path: path.stem)
def test_every_parameter_is_read_and_nothing_waits_for_a_hand(source: Path) -> None:
    """papermill shows comments, sets whatever it is given, and loses widgets and progress bars, or hangs at them."""
    cells = code_cells(source)
    (given,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    code = "\n".join(cell.source for cell in cells if cell.source != given)
    names = re.findall(r"^(\w+) =", given, flags=re.MULTILINE)
    shown = papermill.inspect_notebook(source)
    assert list(shown) == names
    assert all(len(own["help"]) > 20 for own in shown.values())
    assert source == OWN_LOOP or set(COMMON) <= set(names)
    read_by_begin = {*COMMON, "bases"} if "reports.begin(" in code else set()
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} <= read_by_begin
    assert not re.search(r"ipywidgets|\binteract\b|tqdm|\binput\(", code)


def test_every_artefact_has_its_visible_cells() -> None:
    """A table or figure is laid out where it is shown: its name, and 30 lines at most that a reader may edit."""
    shown: dict[str, str] = {}
    for source in SOURCES:
        for cell in nbformat.read(source, as_version=4).cells:
            for name in re.findall(r'study\.(?:table|figure)\(\s*"(\w+)"', cell.source):
                assert ARTEFACTS[name].notebook == source.stem
                assert cell.metadata.get("tags") in ([name], None)
                assert len(cell.source.splitlines()) <= 35, name
                shown[name] = source.stem
    assert set(shown) >= {name for name, own in ARTEFACTS.items() if own.group != "next"}


def test_table3_shows_the_papers_value_beside_ours_with_an_interval(runs_dir: Path, tmp_path: Path) -> None:
    """With parameters as the command line passes them, as text; of two bases the one that is asked for."""
    (source,) = [own for own in SOURCES if own.stem == "table3_main_results"]
    notebook = execute(source, tmp_path, scale="tiny", seeds="[0, 1, 2]", bases='["weak"]', runs_dir=str(runs_dir))
    shown = printed(notebook)
    assert "Nothing is left to compute." in shown
    assert re.search(r">\d+\.\d<small>\[\d+\.\d, \d+\.\d\]</small></td>", shown)
    assert ">41.9</td>" in shown
    assert "AIME 24</th>" in shown
    assert "hpt-weak-s0" in shown
    assert "Llama base (stands" not in shown  # its runs are named, for verdicts are corrected over all contrasts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ipynb"]  # nothing is written unasked


@pytest.mark.ci_slow
def test_own_loop_learns_and_leaves_sft_for_rl(tmp_path: Path) -> None:
    shown = printed(execute(OWN_LOOP, tmp_path, steps=60))
    ((first_reward, last_reward),) = re.findall(r"reward: ([\d.]+)\D+([\d.]+)", shown)
    ((first_sft, last_sft),) = re.findall(r"questions that learn by SFT: ([\d.]+)\D+([\d.]+)", shown)
    assert float(first_reward) < 0.05 < 0.15 < float(last_reward)
    assert float(first_sft) > 0.8 > 0.5 > float(last_sft)


def test_own_loop_takes_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND")  # a kernel then shows figures in the notebook, as a reader's does
    model = str(write_digits(tmp_path) / "model")
    notebook = execute(OWN_LOOP, tmp_path, steps=1, questions_per_step=2, rollouts=2, model_folder=model)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_papermill_stops_at_a_wrong_parameter_before_anything_is_computed(tmp_path: Path) -> None:
    message = r"sedes = \[0\]: allowed is a parameter of this notebook: scale, seeds"
    with pytest.raises(papermill.PapermillExecutionError, match=message) as error:
        execute(SOURCES[0], tmp_path, scale="tiny", runs_dir=str(tmp_path / "runs"), sedes=[0])
    assert error.value.ename == "ConfigError"
    assert not (tmp_path / "runs").exists()


def test_parameters_are_checked_before_anything_slow_is_imported() -> None:
    """A wrong name or type is refused at once: pandas, matplotlib and scipy take seconds."""
    code = "import sys\nfrom hpt.reports import COMMON, begin, parameters\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "matplotlib", "scipy", "pydantic"} & set(done.stdout.split())
    for source in EVERY:
        sources = [cell.source for cell in code_cells(source)]
        checks = next(own for own in sources if re.search(r"reports\.(begin|parameters)\(", own))
        imported = re.findall(r"^(?:from|import) .*", re.split(r"reports\.(?:begin|parameters)\(", checks)[0], re.M)
        assert imported == ["from hpt import reports"], source.stem


def cells(*sources: str, **names: Any) -> dict[str, Any]:
    """A kernel's namespace after these cells."""
    return {"In": ["", *sources], "Out": {}, **names}


DEFAULTS: dict[str, Any] = {name: kind() for name, kind in COMMON.items()}
OWN = "# Parameters: of this notebook\n" + "\n".join(f"{name} = {value!r}" for name, value in DEFAULTS.items())


def test_parameters_come_back_typed() -> None:
    injected = '# Parameters\nscale = "tiny"\nseeds = "[0, 1]"\nshare = 1\n'
    given = {**DEFAULTS, "scale": "tiny", "seeds": "[0, 1]", "share": 1}
    namespace = cells(f"{OWN}\nshare = 0.5", injected, "from x import y", **given, records=[1], table={})
    assert read_parameters(namespace) == {**given, "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 3}, "scale = 3: allowed is text"),
        ({"scale": True}, "scale = True"),
        ({"seeds": "[0"}, r"seeds = '\[0': allowed is a list"),
        ({"seeds": '{"a": 1}'}, "seeds = .*allowed is a list"),
        ({"seeds": 0}, r"write e\.g\. seeds = \[0, 1\], with papermill -p seeds '\[0, 1\]'"),
        ({"settings": "gate.count=2"}, "with papermill -p settings '{\"gate.count\": 2}'"),
        ({"count": True}, "count = True: allowed is a whole number"),
        ({"count": "4"}, "count = '4': allowed is a whole number"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_parameters(cells(f"{OWN}\ncount = 3", "", **{**DEFAULTS, "count": 3, **given}))


def test_cells_that_were_not_run_are_asked_for_and_a_misspelt_name_counts_until_it_is_corrected() -> None:
    with pytest.raises(ConfigError, match="run the parameters cell first"):
        read_parameters(cells("x = 1", scale="mini"))
    with pytest.raises(ConfigError, match=r"seeds = None: .*a line of the parameters cell"):
        read_parameters(cells(OWN.replace("seeds", "sedes"), **DEFAULTS))
    misspelt = OWN + "\nsede = 1"
    with pytest.raises(ConfigError, match="sede = 1: allowed is a parameter of this notebook: scale"):
        read_parameters(cells(OWN, "# Parameters\nsede = 1\n", **DEFAULTS, sede=1))
    # the history of a kernel keeps the cell with the misspelt name
    assert read_parameters(cells(misspelt, "begin(...)", OWN, **DEFAULTS, sede=1, scratch=3)) == DEFAULTS


def table3(folder: Path, **given: Any) -> Study:
    return begin("table3_main_results", given={"scale": "tiny", "runs_dir": str(folder), **given})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "huge"}, "scale = 'huge': allowed is one of tiny, mini"),
        ({"seeds": []}, "seeds = .*different whole numbers"),
        ({"seeds": [0, 0]}, "seeds = .*different whole numbers"),
        ({"seeds": [True]}, "seeds = .*different whole numbers"),
        ({"bases": ["strong"]}, "bases = 'strong': allowed is some of llama, weak"),
        ({"from_records": "no-such-folder"}, "from_records = .*allowed is a folder of records"),
        ({"settings": {"gate.count": 99}}, "gate.count = 99"),
        ({"settings": {"gate.cuont": 2}}, r"gate\.cuont = 2: .*did you mean count"),
        ({"settings": {"seed": 5}}, "seed = 5: allowed is a setting; what follows"),
        ({"settings": {"hpt": {"recipe": "paper"}}}, "recipe = 'paper': allowed is a setting; what follows"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table3(tmp_path, **change)


def test_the_plan_says_how_long_missing_runs_will_take(runs_dir: Path) -> None:
    shown = table3(runs_dir, seeds=[0, 7]).to_run()
    # two bases, on each four methods with two seeds, of which one is missing
    assert re.match(r"10 of 20 runs are left to compute: about \d+ (s|min) in all, .*by \d+ runs finished", shown.text)
    assert table3(runs_dir).to_run().text == "Nothing is left to compute."


def test_relative_folders_start_at_the_project_also_inside_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == (tmp_path / "runs").resolve()
    assert project_path("/somewhere/else") == Path("/somewhere/else")

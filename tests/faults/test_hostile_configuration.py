"""Names, paths, parameters and data that mean harm: refused, or only text; nothing leaves its folder or is run."""

import ast
import html.parser
import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.translators import PythonTranslator

from hpt.config.run_config import validate
from hpt.data.models import check_model_folder
from hpt.data.problems import problems_hash
from hpt.data.sources import problems_from
from hpt.reports.notebooks import plain_table
from hpt.reports.pages import notebook_page
from hpt.runs.evaluations import evaluation_key
from hpt.runs.folder import RunFolder, run_name
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError, HptError, RecordFault
from hpt.training.policy import load_model
from hpt.training.ranks import job_command
from hpt.training.sampler import request_seed
from tests.browser import browser, missing
from tests.command_line import hpt
from tests.digits import write_digits
from tests.scripted import config_for, make_trainer

#: What a name may hold that wants out of its folder, into a shell, a page or a terminal.
HOSTILE = (
    "../../../outside", "..", "/etc/passwd", "a/b", "a\\b", "~/x", "$HOME", "$(touch outside)", "`touch outside`",
    "; touch outside", "| touch outside", "&& touch outside", "a\nb", "a\rb", "'", '"', "''';import os", "a\x00b",
    "\x1b[2J", "-rf", "--help", " ", "", "con", "*", "?", "[red]a[/]", "[/b]", "{0}", "%s", "\u202eb", "\u00e9",
    "\U0001f600", "a" * 10_000, "../" * 3_000, "<script>alert(1)</script>",
)  # fmt: skip


def ids(text: str) -> str:
    return ascii(text)[:24]


hostile = pytest.mark.parametrize("text", HOSTILE, ids=ids)


# --- names of runs and evaluations ------------------------------------------------------------------------------------


@hostile
def test_a_run_folder_lies_where_it_belongs(text: str, tmp_path: Path) -> None:
    """Method, policy and files of a run are the user's to name; the folder is named by what is harmless in them."""
    config = validate({"method": text, "policy": {"name": text}, "data": {"source": text}, "gate": {"kind": text}})
    folder = RunFolder.of(config, tmp_path)
    assert folder.path.resolve().parent == tmp_path.resolve() / "mini"
    name = folder.path.name
    assert name == run_name(config)
    assert name.isascii()
    assert set("/\\\n\r\x00'\"$`;|&<>* \x1b[]") & set(name) == set()
    assert len(name) < 120
    folder.create(config)
    assert RunFolder(folder.path).config == config
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {folder.path / "config.json"}


def test_two_names_that_read_alike_are_two_runs() -> None:
    names = [run_name(validate({"method": method})) for method in ("a/b", "a_b", "a:b", "a" * 50, "a" * 51)]
    assert len(set(names)) == len(names)


@hostile
def test_a_scale_is_a_name_and_no_path(text: str, tmp_path: Path) -> None:
    if text not in ("con", "-rf", "--help"):  # plain names; the first test of a scale's existence refuses them
        with pytest.raises(ConfigError, match="scale = "):
            validate({"scale": text})
    done = hpt("runs", "import", tmp_path, f"--scale={text}", "--reports-dir", "reports", folder=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


@hostile
def test_an_evaluation_is_one_there_is(text: str) -> None:
    config = build_config("hpt", scale="tiny")
    for name in (text, f"contest-a@{text}.", f"{text}@8"):
        with pytest.raises(ConfigError, match="evaluation = "):
            evaluation_key(config, name)


@hostile
def test_settings_are_refused_in_one_short_line(text: str) -> None:
    for settings in ({text: 1}, {"gate.count": text}, {"recipe": text}):
        with pytest.raises(ConfigError) as refused:
            build_config("hpt", scale="tiny", settings=settings)
        assert len(str(refused.value)) < 800
    with pytest.raises(ConfigError, match="method = "):
        build_config(text, scale="tiny")


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "builtins:exec", "hpt.support.files:write_text"])
def test_a_method_that_is_none_is_never_called(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((HptError, AttributeError, TypeError)):
        build_config(name, scale="tiny")
    assert list(tmp_path.iterdir()) == []


@hostile
def test_no_command_line_is_a_shell_string(text: str) -> None:
    command = job_command("hpt.runs.job", [text], None)
    assert command[-1] == text
    assert len(command) == 4


# --- parameters of notebooks ------------------------------------------------------------------------------------------


@hostile
def test_a_parameter_of_a_notebook_stays_a_text(text: str) -> None:
    cell = PythonTranslator.codify({"scale": text, "seeds": [text], "settings": {text: text}})
    assigned = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell).body}
    assert assigned == {"scale": text, "seeds": [text], "settings": {text: text}}


# --- data -------------------------------------------------------------------------------------------------------------


@hostile
def test_fields_of_a_question_are_only_text(text: str, tmp_path: Path) -> None:
    shown = f"1{text}1"  # alone it may be blank, and be refused
    row = {"id": shown, "question": shown, "answer": "1", "demonstration": shown, "system": text}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = problems_from(tmp_path / "rows.jsonl")
    assert (problem.id, problem.question, problem.demonstration, problem.system) == (shown, shown, shown, text)
    assert len(problems_hash([problem])) == 64
    assert 0 <= request_seed(0, "train", 0, problem.id) < 2**62


@pytest.mark.parametrize(
    "row",
    [
        '{"id":"1","question":"\\ud800","answer":"1"}',
        '{"id":"1","question":"q","answer":"1","level":' + "9" * 5_000 + "}",
        '{"id":"1","question":"q","answer":"1","level":1e9}', '{"id":"1","question":"q","answer":"1","level":1000000}',
        "[" * 100_000, '{"id":' * 50_000, '{"__class__":"os.system"}', "!!python/object/apply:os.system [id]",
        "\x80\x04.",
    ],
    ids=ids,
)  # fmt: skip
def test_a_row_that_cannot_be_kept_is_refused_by_its_place(row: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"id":"0","question":"q","answer":"1"}}\n{row}\n')
    with pytest.raises(ConfigError, match=r"rows\.jsonl.*(row 1|line 2|JSON objects)") as refused:
        problems_from(tmp_path / "rows.jsonl")
    assert len(str(refused.value)) < 1_000


# --- models and checkpoints -------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits")) / "model"


def test_pickles_beside_the_weights_are_never_read(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for name in ("pytorch_model.bin", "model.pt", "optimizer.pt", "training_args.bin", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"weights in safetensors files \(pickles are not read\)"):
        check_model_folder(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("file", [f"{own}config.json" for own in ("", "tokenizer_", "processor_", "generation_")])
@pytest.mark.parametrize("key", ['"auto_map"', '"\\u0061uto_map"'])
def test_a_model_that_needs_its_own_code_is_refused_with_the_reason(
    file: str, key: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    known = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    text = json.dumps(known)[1:-1]
    (folder / file).write_text("{" + ", ".join(filter(None, [text, key + ': {"AutoConfig": "own.Own"}'])) + "}")
    with pytest.raises(ConfigError, match=rf"without Python code \({file} names some: auto_map\).*never run"):
        check_model_folder(folder)
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\udcff"])
def test_a_configuration_that_is_no_json_is_refused(content: str, model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="readable JSON"):
        check_model_folder(folder)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """Its manifest may be right: whoever wrote the file could write that too."""
    trainer = make_trainer(config_for("hpt"))
    trainer.train(1)
    trainer.engine.save_state(tmp_path / "state")
    trainer.engine.load_state(tmp_path / "state")
    (file,) = (tmp_path / "state").rglob("*.pt")
    content = torch.load(file, weights_only=True)
    torch.save(content | {"more": Bomb(tmp_path / "mark")}, file)
    with pytest.raises(RecordFault, match="holds more than tensors"):
        trainer.engine.load_state(tmp_path / "state")
    assert not (tmp_path / "mark").exists()


# --- pages ------------------------------------------------------------------------------------------------------------

MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style></script><script>alert(2)</script>",
    "' onmouseover='alert(1)", "\" autofocus onfocus=alert(1) x=\"", "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>a</a>", "]]><script>", "<!--", "&lt;script&gt;", "{{ 7*7 }}",
    "$\\href{javascript:alert(1)}{x}$",
)  # fmt: skip


class Found(html.parser.HTMLParser):
    """Collects what a browser would run, and the text it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.handlers, self.text = [], [], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.handlers += [value for _, value in attrs if (value or "").strip().lower().startswith("javascript:")]

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Found:
    found = Found()
    found.feed(page)
    found.close()
    return found


def page_that_shows(texts: Sequence[str]) -> str:
    """A notebook's page with these texts, if any, in every kind of output and as what its status says."""
    cells, first = [new_markdown_cell("# A")], texts[0] if texts else None
    if texts:
        frame = pd.DataFrame({"answer": list(texts)})
        outputs = [
            new_output("stream", text="\n".join(texts)),
            new_output("execute_result", {"text/plain": repr(texts)}),
            new_output("display_data", {"text/html": frame.to_html(), "text/plain": repr(frame)}),
            new_output("display_data", {"text/html": str(plain_table(["answer"], [[own] for own in texts]))}),
            new_output("error", ename=first, evalue=first, traceback=list(texts)),
        ]
        cells.append(new_code_cell(f"answers = {texts!r}", outputs=outputs))
    status = {
        "notebook": "own", "when": "2026-01-01T00:00+00:00", "dirty": False, "verdicts": [], "artefacts": [],
        "seeds": [0], "error": first, "scale": first or "tiny", "commit": first or "0",
    }  # fmt: skip
    return notebook_page(new_notebook(cells=cells), status)


#: Each would change the page's title if it ran.
RUNNING = (
    "<script>document.title = 'it ran'</script>",
    "<img src=x onerror=\"document.title = 'it ran'\">",
    "</pre></td><svg onload=\"document.title = 'it ran'\">",
)


@pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")
def test_in_a_real_browser_what_a_model_said_is_text(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with browser() as own:

        def title(content: str) -> str:
            page.write_text(content, encoding="utf-8")
            own.open(page, 1000, 1000)
            return own.run("return document.title")

        assert title(page_that_shows(RUNNING)) != "it ran"
        assert own.run("return document.body.textContent").count("<script>document.title") >= 4
        for text in RUNNING:  # the test would see it
            assert title(f"<title>before</title><table><tr><td><pre>{text}</pre></table>") == "it ran"


def test_what_a_model_said_is_text_on_a_notebooks_page() -> None:
    plain, found = parsed(page_that_shows(())), parsed(page_that_shows(MARKUP))
    assert (found.tags.count("script"), found.handlers) == (plain.tags.count("script"), plain.handlers)
    assert not {"img", "svg"} & set(found.tags)
    for text in MARKUP:
        assert text in found.text
    assert parsed(f"<p title='{MARKUP[3]}'>{MARKUP[1]}</p>").handlers == ["onmouseover", "onerror"]  # it would be seen

"""No mini number stands under a real benchmark's bare name: what a set stands for is said as that and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hpt.paper.paper import paper_data
from hpt.reports import frames
from hpt.reports.build import NOTEBOOKS
from hpt.reports.verdicts import verdicts
from hpt.runs.catalogue import ARTEFACTS, PASS_AT_K
from hpt.runs.records import RunRecords, load_runs
from tests.fabricated import fabricate

#: As the paper prints them, and as people write them.
BENCHMARKS = {*paper_data()["benchmarks"], "AIME", "AMC12", "MATH500", "Minerva Math", "Olympiad",
              "Olympiad-Bench", "ARC-C", "GPQA-Diamond"}  # fmt: skip
_ANY = "|".join(sorted(map(re.escape, BENCHMARKS), key=len, reverse=True))
NAMED = re.compile(rf"(?<![\w-])({_ANY})(?![\w-])")
#: A benchmark may be named as what a set stands for, or as the paper's.
SAID = re.compile(rf"(?:stands? for|the paper's)(?: (?:{_ANY}),?| and)* $")


def bare(text: str) -> list[str]:
    """Names of benchmarks in a text that are not said to be stood for."""
    return [found[1] for found in NAMED.finditer(text) if not SAID.search(text[: found.start()])]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    names = ("table2", "table3", "table4", "table6", "figure2", "figure4", "figure5", "figure6")
    return load_runs(fabricate(tmp_path_factory.mktemp("runs"), names, seeds=(0, 1)))


def in_frame(frame: pd.DataFrame) -> Iterator[str]:
    """Heads and texts of a CSV; its column ``stands_for`` says what it holds."""
    yield from map(str, frame.columns)
    for name in frame.columns:
        if name != "stands_for":
            yield from (own for own in frame[name].unique() if isinstance(own, str))


def test_no_frame_prints_a_mini_number_under_a_benchmarks_name(records: list[RunRecords]) -> None:
    strong = ["pretrain", "sft", "grpo", "hpt"]
    made = {
        "scores": frames.scores(records, {"strong": strong}, "table2", ["in", "out"]),
        "validation": frames.validation(records, ["sft", "hpt"]),
        "reach": frames.pass_at_k(records, PASS_AT_K, strong, "strong"),
        "solves": frames.exclusive(records, "hpt", ["grpo"], "strong", "graded-500", "graded-500@8"),
        "gains": frames.effects(records, ["grpo"], "sft", "strong"),
        "settings": frames.settings(records).reset_index(),
    }
    assert all(len(frame) for frame in made.values())
    for name, frame in made.items():
        assert not {text: names for text in in_frame(frame) if (names := bare(text))}, name
    sets = {*paper_data()["benchmarks"], *paper_data()["averages"]}
    assert set(made["scores"]["stands_for"]) == sets


@pytest.mark.parametrize("source", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_cell_that_draws_does(source: Path) -> None:
    """Titles, captions and labels stand in the notebooks' cells; what they say of a set comes from a frame."""
    for cell in nbformat.read(source, as_version=4).cells:
        if cell.cell_type == "code":
            assert not bare(cell.source.replace("\n", " ")), cell.id


def test_no_verdict_does(records: list[RunRecords]) -> None:
    """The quoted sentence and the paper's evidence are the paper's; reading and explanation are ours."""
    for scale in ("tiny", "mini"):
        for row in verdicts(records, list(ARTEFACTS), scale):
            reading = [own for own in row.reading.split(". ") if "the paper's own" not in own]
            for text in (row.ours, row.explanation, *reading):
                assert not bare(text), row.claim

"""No mini number stands under a real benchmark's bare name: what a set stands for is said as that and nothing else."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
from hpt.artefacts import BUILDERS, FigureArtefact, Made
from hpt.artefacts.world import bases
from matplotlib.text import Text

from hpt.catalogue import ARTEFACTS
from hpt.experiments import PlannedRun
from hpt.export import RunRecords, load_records
from hpt.paper import paper_data
from hpt.reports.verdicts import verdicts

#: As the paper prints them, and as people write them.
BENCHMARKS = {*paper_data()["benchmarks"], *(own["printed"] for own in paper_data()["benchmarks"].values()),
              "AIME", "AMC12", "MATH500", "Minerva Math", "Olympiad-Bench", "ARC-C", "GPQA-Diamond"}  # fmt: skip
_ANY = "|".join(sorted(map(re.escape, BENCHMARKS), key=len, reverse=True))
NAMED = re.compile(rf"(?<![\w-])({_ANY})(?![\w-])")
#: A benchmark may be named as what a set stands for, or as the paper's.
SAID = re.compile(rf"(?:stands? for|the paper's)(?: (?:{_ANY}),?| and)* $")


def bare(text: str) -> list[str]:
    """Names of benchmarks in a text that are not said to be stood for."""
    return [found[1] for found in NAMED.finditer(text) if not SAID.search(text[: found.start()])]


@pytest.fixture(scope="module")
def records(every_run: list[PlannedRun]) -> list[RunRecords]:
    return [replace(load_records(run.folder.path), arms=run.arms) for run in every_run if run.folder is not None]


def texts(made: Made) -> Iterator[str]:
    """Every text a reader sees of an artefact, its files included."""
    yield from (made.name, made.title, made.caption)
    yield from in_frame(made.data)
    if isinstance(made, FigureArtefact):
        for frame in made.more.values():
            yield from in_frame(frame)
        for text in made.figure().findobj(Text):
            assert isinstance(text, Text)
            yield text.get_text().replace("\n", " ")
        return
    yield from (f"{column.head} {column.note}" for column in made.columns)
    for label, cells in made.rows:
        yield from (label, *(text for cell in cells for text in (cell.value, cell.interval)))


def in_frame(frame: pd.DataFrame) -> Iterator[str]:
    """Heads and texts of a CSV; its column ``stands_for`` says what it holds."""
    yield from map(str, frame.columns)
    for name in frame.columns:
        if name != "stands_for":
            yield from (own for own in frame[name].unique() if isinstance(own, str))


# the audit is about the paper's own numbers: there the bare names are right
@pytest.mark.parametrize("name", [name for name in BUILDERS if ARTEFACTS[name].arms])
def test_no_artefact_prints_a_mini_number_under_a_benchmarks_name(records: list[RunRecords], name: str) -> None:
    found = {text: names for text in texts(BUILDERS[name](records)) if (names := bare(text))}
    assert not found


def test_no_verdict_does(records: list[RunRecords]) -> None:
    """The quoted sentence and the paper's evidence are the paper's; subject, reading and explanation are ours."""
    for scale in ("tiny", "mini"):
        for row in verdicts(records, list(ARTEFACTS), scale):
            reading = [own for own in row.reading.split(". ") if "the paper's own" not in own]
            for text in (row.subject, row.ours, row.explanation, *reading):
                assert not bare(text), row.claim


def test_every_table_of_scores_says_what_each_set_stands_for(records: list[RunRecords]) -> None:
    sets = {own["printed"]: name for name, own in paper_data()["benchmarks"].items()}
    for name in ("table2", "table3", "table5", "table6"):
        notes = [column.note for column in BUILDERS[name](records).columns]  # type: ignore[union-attr]  # tables
        wanted = [
            own for own in sets.values() if name == "table2" or paper_data()["benchmarks"][own]["distribution"] == "in"
        ]
        assert [note.removeprefix("stands for ") for note in notes if note.startswith("stands for")] == wanted, name
    for name in ("table4", "figure2", "figure5"):
        assert any("stands for" in text for text in texts(BUILDERS[name](records))), name


def test_the_bases_of_the_report_name_no_benchmark(records: list[RunRecords]) -> None:
    assert not [text for row in bases(records) for text in row if bare(text)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("stands for AIME 24", []),
        ("The set is made by this package and stands for MATH-500.", []),
        ("they stand for AIME 25, AIME 24 and AMC", []),
        ("AIME 24", ["AIME 24"]),
        ("HPT on MATH-500: 89.2", ["MATH-500"]),
        ("contest-a AMC", ["AMC"]),
        ("contest-a, notation, choice", []),
        ("stands for AIME 24, on GPQA 3", ["GPQA"]),
    ],
)
def test_bare_names_are_found(text: str, names: list[str]) -> None:
    assert bare(text) == names

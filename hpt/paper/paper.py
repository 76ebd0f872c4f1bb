"""The paper's published numbers and claims; everything is read from ``paper.json``, the only place that holds them.

Columns are named after the benchmarks that the evaluation sets stand for; rows can be asked for by the label the paper
prints or by the method's name in this package.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from pydantic import BaseModel

#: The arm of a base itself: the paper's untrained models, which this package makes by a run.
BASE = "pretrain"
#: Artefacts that the paper does not have -> its tables that print the numbers they are about.
PRINTED_IN = {"grpo_gains": ("table2", "table3")}


class Claim(BaseModel, frozen=True):
    """A sentence of the paper, quoted from a section, with the test that decides it.

    ``title`` says it in a few words. ``artefact`` is the table or figure it is about, ``policy`` the base whose runs it
    is tested on, ``reading`` what the sentence is taken to mean, fixed before any run it is applied to. ``test`` is a
    key of `hpt.paper.claim_tests.TESTS`, which takes the ``methods`` and ``parameters``: methods are the arms it needs
    runs of (`hpt.runs.catalogue.Arm`), by name on its base or ``name@base`` on another; without any it is decided on a
    frame made without a run (`hpt.reports.notebooks.Study.frames`). ``evidence`` are the (table, row) whose values are
    the paper's, where the arms do not name them; ``cites`` says whose result the paper reports. ``confirmatory`` claims
    are judged together (docs/world.md), those of a ``scale`` at that alone.
    """

    id: str
    title: str
    section: str
    artefact: str
    sentence: str
    reading: str
    test: str
    parameters: dict[str, Any]
    policy: str = ""
    methods: tuple[str, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()
    cites: str = ""
    confirmatory: bool = False
    scale: str = ""


@cache
def paper_data() -> dict[str, Any]:
    """Return the whole file: source, benchmarks, averages, statements, tables, headlines, claims. Not to be changed."""
    return json.loads(resources.files("hpt.paper").joinpath("paper.json").read_text(encoding="utf-8"))


def paper_table(table: str) -> pd.DataFrame:
    """Return a table as printed, in percent (Table 4: problems and percent), one row per printed row.

    Columns: row (label), method (name of an arm here, or None), policy, starred (copied by the authors from another
    paper), then the printed ones. A table that the paper does not have is empty.
    """
    printed = paper_data()["tables"].get(table, {"columns": [], "rows": []})
    rows = pd.DataFrame(printed["rows"], columns=["row", "method", "policy", "starred", "values"])
    values = pd.DataFrame(rows.pop("values").to_list(), columns=printed["columns"])
    return pd.concat([rows, values], axis=1)


def paper_value(table: str, row: str, column: str, policy: str | None = None) -> float | None:
    """Return one printed number, or None where the paper has none; see `paper_row`.

    Example:
        >>> paper_value("table3", "hpt", "Avg", policy="weak"), paper_value("table3", "srft", "Avg")
        (41.9, None)
    """
    for name in PRINTED_IN.get(table, (table,)):
        found = paper_row(name, row, policy) if column in paper_columns(name) else None
        if found is not None:
            return float(found[column])
    return None


def paper_row(table: str, row: str, policy: str | None = None) -> dict[str, Any] | None:
    """Return one printed row as `paper_table` has it, or None.

    A row goes by its printed label or by the method's name in this package; ``policy`` (``weak``, ``strong``,
    ``llama``) is needed where a table has the row for several (Table 3).
    """
    frame = paper_table(table)
    found = frame[(frame["row"] == row) | (frame["method"] == row)]
    if policy is not None:
        found = found[found["policy"] == policy]
    if len(found) > 1:
        raise ValueError(f"{table} has {len(found)} rows {row!r}: name one of the policies {sorted(found['policy'])}")
    rows: list[dict[str, Any]] = found.to_dict("records")  # type: ignore[assignment]  # labels are text
    return rows[0] if rows else None


def paper_columns(table: str) -> tuple[str, ...]:
    """Return the columns of a table that hold numbers, as printed; none of a table the paper does not have."""
    return tuple(paper_data()["tables"].get(table, {}).get("columns", ()))


def base_title(policy: str) -> str:
    """Return what a report calls a base: whose place in the paper it takes is said with it.

    Example:
        >>> base_title("weak"), base_title("mine")
        ('weak base (stands for Qwen2.5-Math-1.5B)', 'base mine')
    """
    for table in ("table2", "table3"):
        if found := paper_row(table, BASE, policy):
            name = policy.capitalize() if policy == "llama" else policy  # the others are no names
            return f"{name} base (stands for {found['row']})"
    return f"base {policy}"


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim, in the order of the paper.

    One entry of the file can stand for several claims of one sentence: ``each`` lists the words that replace the names
    in braces in all its texts, or a number or list that is the whole of a parameter.
    """
    found = []
    for entry in paper_data()["claims"]:
        text = json.dumps({key: value for key, value in entry.items() if key != "each"})
        for words in entry.get("each", [{}]):
            filled = text
            for name, word in words.items():
                whole, brace = json.dumps(word), f"{{{name}}}"
                filled = filled.replace(f'"{brace}"', whole).replace(brace, whole[1:-1])
            found.append(Claim.model_validate_json(filled))
    return tuple(found)


def confirmatory_claims() -> tuple[Claim, ...]:
    """Return the 13 contrasts of HPT with a baseline that are judged together (docs/world.md), strong base first."""
    order = ["strong", "llama", "weak"]
    return tuple(sorted((claim for claim in claims() if claim.confirmatory), key=lambda one: order.index(one.policy)))


def headline_claims() -> tuple[str, ...]:
    """Return the ids of the claims of the abstract and the takeaways, which a report shows first."""
    return tuple(paper_data()["headlines"])


def claim_named(claim_id: str) -> Claim:
    """Return a claim by its id."""
    return next(claim for claim in claims() if claim.id == claim_id)

"""The table of quantities: docs/metrics.md is made from it, and what runs record is what it defines."""

from pathlib import Path

import pytest

from docs.metrics import PAGE, page
from hpt.runs.records import load_records, record_folders
from hpt.training.metrics import METRICS, SCORES, timing_columns

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_table_says() -> None:
    """Write it anew with `.venv/bin/python docs/metrics.py`."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_quantity_is_defined() -> None:
    for metric in (METRICS | SCORES).values():
        assert metric.label
        assert metric.definition.endswith(".")
        assert metric.formula
    assert not METRICS.keys() & SCORES.keys()
    labels = [metric.label for metric in (METRICS | SCORES).values()]
    assert len(set(labels)) == len(labels)
    assert {name for name in METRICS if METRICS[name].formula.startswith("clock")} == set(timing_columns())


def test_runs_record_what_the_registry_defines_and_all_of_it() -> None:
    folders = record_folders(ROOT / "reports" / "mini" / "records")
    if not folders:
        pytest.skip("no committed records")
    recorded: set[str] = set()
    for folder in folders:
        if not folder.name.startswith("pretrain"):
            recorded |= set(load_records(folder).metrics.columns)
    assert recorded == METRICS.keys()

"""The page of benchmarks says what was recorded, and what keeps a bound."""

import json
from importlib import import_module

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.recording import PAGE, Bound, page, read_results


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").run)


def test_the_page_is_that_of_the_recorded_results() -> None:
    assert PAGE.read_text() == page(read_results()), "write it anew: make bench ARGS=--record"


def test_a_bound_is_kept_on_its_side_only() -> None:
    assert [Bound("a", measured, "at most", 1.25).holds for measured in (1.25, 1.26)] == [True, False]
    assert [Bound("a", measured, "at least", 1.5).holds for measured in (1.5, 1.49)] == [True, False]


def test_what_does_not_hold_is_said_on_the_page() -> None:
    (first, *_) = read_results()
    changed = json.loads(json.dumps(first))
    for own in changed["bounds"]:
        own["measured"] = 1e9 if own["kind"] == "at most" else 0.0
    shown = page([changed])
    assert shown.count("**does not hold**") == len(changed["bounds"])
    changed["bounds"][0]["why"] = "half of it is sampling"
    assert "What stands in the way:\n\n* half of it is sampling\n" in page([changed])
    assert "stands in the way" not in page([changed | {"bounds": [Bound("a", 1, "at most", 2, why="b").__dict__]}])
    assert changed["provenance"]["commit"][:12] in shown

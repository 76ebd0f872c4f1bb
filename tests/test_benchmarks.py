"""The page of benchmarks says what was recorded, and what keeps a bound."""

import json

import pytest

from benchmarks.recording import PAGE, Bound, page, read_results


def test_the_page_is_that_of_the_recorded_results() -> None:
    assert PAGE.read_text() == page(read_results()), "write it anew: make bench ARGS=--record"


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        (Bound("a", 1.25, "at most", 1.25), True),
        (Bound("a", 1.26, "at most", 1.25), False),
        (Bound("a", 1.5, "at least", 1.5), True),
        (Bound("a", 1.49, "at least", 1.5), False),
    ],
)
def test_a_bound_is_kept_on_its_side_only(bound: Bound, holds: bool) -> None:
    assert bound.holds is holds


def test_what_does_not_hold_is_said_on_the_page() -> None:
    (first, *_) = read_results()
    changed = json.loads(json.dumps(first))
    for own in changed["bounds"]:
        own["measured"] = 1e9 if own["kind"] == "at most" else 0.0
    shown = page([changed])
    assert shown.count("**does not hold**") == len(changed["bounds"])
    assert changed["provenance"]["commit"][:12] in shown

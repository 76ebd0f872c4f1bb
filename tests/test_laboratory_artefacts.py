"""The laboratory's tables and figures show what was measured: every row, both ends of an interval, honest captions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hpt.artefacts import BUILDERS, laboratory

from hpt.catalogue import ARTEFACTS
from hpt.laboratory.sweeps import DIALS, SITUATIONS
from hpt.upge.rows import ROWS

NAMES = tuple(name for name, artefact in ARTEFACTS.items() if artefact.notebook == "bias_variance")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Fewer questions and draws: what is tested is what is made of the numbers."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"QUESTIONS": 3, "DRAWS": 12, "SWEEP_QUESTIONS": 3, "SWEEP_DRAWS": 6, "PLANE_QUESTIONS": 3,
                 "PLANE_DRAWS": 12}  # fmt: skip
        for name, value in sizes.items():
            patch.setattr(laboratory, name, value)
        patch.setattr(laboratory._size, "__defaults__", (3, 12))
        laboratory._plane.cache_clear(), laboratory._gates.cache_clear()
        yield
    laboratory._plane.cache_clear(), laboratory._gates.cache_clear()


def test_the_plane_and_its_table_hold_every_row_in_every_situation() -> None:
    data = BUILDERS["bias_variance"](()).data
    assert {(own.situation, own.row) for own in data.itertuples()} == {(s, r) for s in SITUATIONS for r in ROWS}
    table = BUILDERS["estimators"](())
    assert [label for label, _ in table.rows] == list(ROWS)
    against = set(data[data["cosine"] <= 0]["row"])
    assert all(name in table.caption for name in against)
    assert ("all rows are" in table.caption) == (not against)


def test_every_dial_is_turned_for_every_row() -> None:
    data = BUILDERS["estimator_error"](()).data
    found = {(own.dial, own.value, own.row) for own in data.itertuples()}
    assert found == {(name, value, row) for name, dial in DIALS.items() for value in dial.values for row in ROWS}


def test_no_gate_has_less_error_than_the_least() -> None:
    data = BUILDERS["gates_as_estimators"](()).data
    assert (data["low"] <= data["high"]).all()
    for _, own in data.groupby("objective"):
        errors = own.set_index("gate")["error"]
        assert errors["least error"] <= errors.min() + 1e-12
    weights = BUILDERS["best_gate"](()).data
    assert (weights[["alpha", "beta"]] >= 0).all().all()
    assert weights.groupby("objective")["correct"].apply(list).map(len).eq(9).all()


def test_the_share_of_conflicts_is_counted() -> None:
    made = BUILDERS["gradient_conflict"](())
    negative = 100 * (made.data["cosine"] < 0).mean()
    assert f"Negative in {negative:.1f} % of {len(made.data)} questions" in made.caption
    assert made.data["cosine"].between(-1 - 1e-12, 1 + 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_they_are_written_without_a_run(name: str, tmp_path: Path) -> None:
    assert ARTEFACTS[name].arms == ()
    made = BUILDERS[name](())
    assert not made.sources
    assert all(path.stat().st_size > 0 for path in made.write(tmp_path))


def test_the_derivation_says_of_every_statement_whether_it_holds_or_where_it_ends() -> None:
    made = BUILDERS["derivation"](())
    identities, ends = (made.data[made.data["identity"] == own] for own in (True, False))
    assert identities["same"].all()
    assert identities["largest"].isna().all()
    assert ends["same"].isna().all()
    assert (ends["smallest"] > 0.01).all()
    assert f"{len(identities)} identities" in made.caption
    shown = [cells for _, cells in made.rows if cells]
    assert [cells[1].value for cells in shown].count("yes") == len(identities)
    assert len(shown) == len(made.data)

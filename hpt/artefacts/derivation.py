"""The derivation as a table: both sides of every lemma and equation, and where each identity ends. No run is needed."""

from collections.abc import Sequence

import pandas as pd

from hpt.artefacts.output import Cell, Column, Row, TableArtefact
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords


def derivation(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return every statement of Section 2.2 and Appendix B with the largest difference of its two sides.

    Returns:
        A table whose data has a line per statement: paper, states, identity, policies; for identities ``same_to`` and
        ``same``, for where one ends ``smallest`` and ``largest`` difference over the policies.
    """
    from hpt.laboratory.cases import CASES
    from hpt.laboratory.derivation import TOLERANCE, derivation_frame

    del records
    found = derivation_frame()
    lines, rows, largest_of_all, heading = [], list[Row](), 0.0, ""
    for _, own in found.groupby(["paper", "states"], sort=False):
        paper, states, identity = (own[name].iloc[0] for name in ("paper", "states", "identity"))
        smallest, largest = float(own["difference"].min()), float(own["difference"].max())
        same = bool((own["difference"] < TOLERANCE).all())  # so that a nan is no identity
        lines.append({
            "statement": f"{paper}: {states}", "identity": bool(identity), "policies": len(own),
            # the difference of an identity is rounding, which another processor rounds otherwise
            "same_to": TOLERANCE if identity else None, "same": same if identity else None,
            "smallest": None if identity else smallest, "largest": None if identity else largest,
        })  # fmt: skip
        if paper != heading:
            rows.append((str(paper), ()))
            heading = str(paper)
        if identity:
            largest_of_all = max(largest_of_all, largest)
            cells = (Cell(f"{largest:.0e}"), Cell("yes" if same else "NO"))
        else:
            cells = (Cell(f"{smallest:.2f} to {largest:.2f}" if len(own) > 1 else f"{largest:.2f}"), Cell("ends here"))
        rows.append((str(states), cells))
    data = pd.DataFrame(lines)
    identities = data[data["identity"]]
    caption = (
        f"{len(identities)} identities, each two sums over all answers (or autograd of the left side) on {len(CASES)} "
        "policies: tables of logits and small transformers, vocabulary 3 to 5, 3 to 4 tokens; Eq. 6 on one token. "
        f"{int(identities['same'].sum())} hold to {TOLERANCE:g} of the length of the left side; the largest difference "
        f"is {largest_of_all:.0e}. The others say where an identity ends, and by how much, smallest to largest over "
        "the policies."
    )
    columns = (Column("largest difference", "of a gradient, relative"), Column("identity"))
    return TableArtefact("derivation", ARTEFACTS["derivation"].title, data, columns, tuple(rows), caption)

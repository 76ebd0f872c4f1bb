"""From records to tables and figures: pure functions, one module per family.

`BUILDERS` names every artefact this package can make; which runs each needs is said in `hpt.experiments`.
"""

from collections.abc import Callable, Sequence

from hpt.artefacts.dynamics import figure5, figure6, figure7
from hpt.artefacts.main_results import table3
from hpt.artefacts.output import FigureArtefact, Made, TableArtefact
from hpt.export import RunRecords

#: Name of an artefact -> records to artefact.
BUILDERS: dict[str, Callable[[Sequence[RunRecords]], Made]] = {
    "table3": table3,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
}

__all__ = ["BUILDERS", "FigureArtefact", "Made", "TableArtefact"]

"""From records to tables and figures: pure functions, one module per family.

`BUILDERS` names every artefact this package can make; which runs each needs is said in `hpt.experiments`.
"""

from collections.abc import Callable, Sequence

from hpt.artefacts.audit import audit
from hpt.artefacts.checkpoints import checkpoint_error
from hpt.artefacts.costs import costs, costs_few_questions, hpt_runs
from hpt.artefacts.derivation import derivation
from hpt.artefacts.discrepancies import discrepancies
from hpt.artefacts.dynamics import figure5, figure6, figure7, figure8
from hpt.artefacts.estimator import figure1, figure1_tokens, table1, table1_readings
from hpt.artefacts.exclusive import table4
from hpt.artefacts.gains import grpo_gains
from hpt.artefacts.laboratory import (
    best_gate,
    bias_variance,
    estimator_error,
    estimators,
    gates_as_estimators,
    gradient_conflict,
)
from hpt.artefacts.main_results import table2, table3, table5, table6
from hpt.artefacts.output import FigureArtefact, Made, TableArtefact
from hpt.artefacts.own import own_algorithms, own_algorithms_curves
from hpt.artefacts.pass_at_k import figure2
from hpt.artefacts.per_question import figure3, figure4
from hpt.artefacts.search import search
from hpt.export import RunRecords

#: Name of an artefact -> records to artefact.
BUILDERS: dict[str, Callable[[Sequence[RunRecords]], Made]] = {
    "table2": table2,
    "table3": table3,
    "grpo_gains": grpo_gains,
    "costs": costs,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "costs_few_questions": costs_few_questions,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
    "figure8": figure8,
    "hpt_runs": hpt_runs,
    "table1": table1,
    "table1_readings": table1_readings,
    "figure1": figure1,
    "figure1_tokens": figure1_tokens,
    "derivation": derivation,
    "bias_variance": bias_variance,
    "estimators": estimators,
    "estimator_error": estimator_error,
    "checkpoint_error": checkpoint_error,
    "gates_as_estimators": gates_as_estimators,
    "best_gate": best_gate,
    "gradient_conflict": gradient_conflict,
    "audit": audit,
    "search": search,
    "discrepancies": discrepancies,
    "own_algorithms": own_algorithms,
    "own_algorithms_curves": own_algorithms_curves,
}

__all__ = ["BUILDERS", "FigureArtefact", "Made", "TableArtefact"]

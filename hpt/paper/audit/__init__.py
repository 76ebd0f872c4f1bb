"""The paper's printed numbers against each other: what is printed, what follows from the rest of it, and a verdict.

Nothing here needs a run. Every check is a function of the published numbers (`hpt.paper.paper.paper_data`) alone, so
that one changed digit can be seen to change its verdict. One module per kind: tables against themselves, counts of
problems, spreads that are not printed, sentences.
"""

from collections.abc import Mapping
from typing import Any

from hpt.paper.audit.checks import Check, Consistency
from hpt.paper.audit.counts import set_sizes, table_4_against_table_2
from hpt.paper.audit.spreads import spreads
from hpt.paper.audit.statements import statements
from hpt.paper.audit.tables import averages, exclusive_solves_add_up, one_run_in_several_tables

__all__ = ["Check", "Consistency", "audit"]


def audit(data: Mapping[str, Any]) -> list[Check]:
    """Return every check of the published numbers, in the order of the report.

    Example:
        >>> from hpt.paper.paper import paper_data
        >>> [check.verdict.value for check in audit(paper_data()) if check.what == "Table 2, HPT, Avg"]
        ['consistent']
    """
    kinds = (averages, exclusive_solves_add_up, one_run_in_several_tables, table_4_against_table_2, set_sizes,
             statements, spreads)  # fmt: skip
    return [check for kind in kinds for check in kind(data)]

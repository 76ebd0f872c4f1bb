"""Reports: tidy data frames from records, notebooks that draw them, and the pages made of executed notebooks.

`frames` turns records into tidy pandas frames, which a notebook's visible cells lay out or draw; `parameters` checks
its parameters, `notebooks` computes or loads the runs it asks for and keeps what it shows; `verdicts` judges the
paper's claims; `build` executes the notebooks of a report and `pages` renders ``index.html`` and ``README.md`` from
what they left; `style` has colours and markers (`hpt.mplstyle`). No score is defined and nothing trained here. Start
with a notebook, then `begin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpt.reports.parameters import COMMON, parameters

if TYPE_CHECKING:
    from hpt.reports.notebooks import Study

__all__ = ["begin", "parameters"]


def begin(name: str, artefacts: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Study:
    """Check a notebook's parameters and return what it does with them; nothing is computed.

    The parameters are those of the notebook's parameters cell, over which papermill lays what it is given: an unknown
    name, or a value of another type than the cell's, is refused. ``artefacts`` are the tables and figures it makes;
    none = those that the catalogue says. Where no notebook runs, ``given`` are its parameters: any of `COMMON`,
    ``bases``, ``extra_methods`` (``module:METHOD`` of custom ones) and ``evaluations`` (further sets or files).
    Figures are drawn in the package's style from here on.

    Example:
        >>> len(begin("table3_main_results", given={"scale": "tiny"}).planned())
        10
    """
    given = parameters(COMMON) if given is None else given
    from hpt.reports.notebooks import begin_study  # pandas, matplotlib: not for a parameter that is refused

    return begin_study(name, artefacts, **given)

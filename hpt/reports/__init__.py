"""Reports: tidy data frames from records, notebooks that draw them, and the pages made of executed notebooks.

It owns what stands between a record and a reader: `frames` turns records into tidy pandas frames; a notebook's visible
cells lay out a table or draw a figure of them, `notebooks` checks its parameters, computes or loads the runs it asks
for and keeps what it shows; `verdicts` judges the paper's claims; `build` executes the notebooks of a report and
`pages` renders ``index.html`` and ``README.md`` from what they left. It never computes a score that
`hpt.evaluation.scores` or `hpt.evaluation.intervals` does not define, and trains nothing itself. Start with a notebook,
then `notebooks.begin`.
"""

from hpt.reports.notebooks import Study, begin, parameters

__all__ = ["Study", "begin", "parameters"]

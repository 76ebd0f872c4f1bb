"""Write docs/metrics.md from ``hpt/training/metrics.csv``: `python docs/metrics.py`."""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt.training.metrics import METRICS, SCORES, Metric

PAGE = Path(__file__).with_name("metrics.md")
ABOUT = """# Metrics

Written by `python docs/metrics.py` from the table that logger and axis labels use (`hpt/training/metrics.csv`); never
edited. A run's `metrics.parquet` has one row per step and a column per metric; a cell is empty where a method has no
such quantity. Columns whose formula is a clock are the only ones that may differ between two runs of one
configuration."""
#: What the letters of the formulas stand for.
SYMBOLS = {
    "q, i, t": "question of the step, its rollout, token of that",
    "Q, n": "questions of the step, rollouts each",
    "R, T, P": "reward (Eq. 7), response tokens, share of correct rollouts of a question (Eq. 8)",
    "L": "largest response length",
    "pi, pi_s": "the policy, and the policy the rollouts were sampled from",
    "alpha, beta": "weights of RL and SFT of a question (Eq. 9)",
    "D": "questions whose demonstration the method keeps (beta > 0)",
    "B_on, B_off": "rollouts and demonstrations with a forward and backward pass",
    "u, U, g": "update of the step, their number, its gradient before clipping",
    "p, N, m, c": "problem of a set, their number, answers drawn, correct ones",
    "a, b": "whether (or how often) the first and the second policy solved a problem",
    "#{...}": "how many",
}


def page() -> str:
    """Return the page as Markdown: every quantity with its definition, formula and unit."""
    symbols = [(f"`{letters}`", meaning) for letters, meaning in SYMBOLS.items()]
    parts = [
        ABOUT,
        f"## What a run records\n\n{_quantities(METRICS.values())}",
        f"## What tables and figures compute\n\n{_quantities(SCORES.values())}",
        f"## Symbols\n\n{_table(('symbol', 'stands for'), symbols)}",
    ]
    return "\n\n".join(parts) + "\n"


def _quantities(metrics: Iterable[Metric]) -> str:
    rows = [(f"`{own.name}`", own.label, own.definition, f"`{own.formula}`", own.unit or "1") for own in metrics]
    return _table(("name", "label", "definition", "formula", "unit"), rows)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

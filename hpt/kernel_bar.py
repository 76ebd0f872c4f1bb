"""The progress of runs inside a notebook: bars replaced in place, in JupyterLab and in what papermill keeps."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

#: Seconds between two drawings.
_EVERY_S = 1.0


def in_kernel() -> bool:
    """Return whether this process is a notebook's kernel."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and _shell() is not None


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


class KernelBar:
    """One bar for all runs and one per run at work; drawn only inside a kernel."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._drawn_at = 0.0
        self._handle: Any = None

    def draw(self, done: int, running: Sequence[tuple[str, int, int, str]], last: bool = False) -> None:
        """Draw how many runs are done, and (name, step, steps, detail) of those at work."""
        if not in_kernel() or (not last and time.monotonic() - self._drawn_at < _EVERY_S):
            return
        from IPython.display import HTML, display

        self._drawn_at = time.monotonic()
        html = HTML(str(bars(done, self.total, running)))
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)


def bars(done: int, total: int, running: Sequence[tuple[str, int, int, str]]) -> Markup:
    """Return the bars as HTML.

    Example:
        >>> print(bars(1, 2, [("hpt-weak-s0", 3, 6, "reward 0.25")]))
        <div><progress value='1' max='2'></progress> 1 of 2 runs done</div>
        <div><progress value='3' max='6'></progress> hpt-weak-s0: step 3 of 6, reward 0.25</div>
    """
    line = Markup("<div><progress value='{}' max='{}'></progress> {}</div>")
    lines = [line.format(done, total, f"{done} of {total} runs done")]
    for name, step, steps, detail in running:
        text = f"{name}: step {step} of {steps}" + (f", {detail}" if detail else "")
        lines.append(line.format(step, max(1, steps), text))
    return Markup("\n").join(lines)

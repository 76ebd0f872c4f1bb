"""The report while runs are still being made, rendered in a process of its own as soon as it is worth reading."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpt.experiments import ARTEFACTS, EARLY
from hpt.forecast import duration
from hpt.launch import end_with_parent
from hpt.report_tasks import NotebookTask, possible_tasks
from hpt.runs import RunFolder


@dataclass(eq=False)
class EarlyReport:
    """Renders what finished runs allow; called after every run (``on_finish`` of `hpt.experiments.compute`).

    The first time is when the early artefacts that were asked for (`hpt.experiments.EARLY`) can all be made, then
    whenever another notebook can. While one rendering is at work no other starts: runs are not to wait for pages.

    Attributes:
        scale, only, seeds, root, reports_dir: as for `hpt.report.build_report`.
    """

    scale: str
    only: Sequence[str]
    seeds: Sequence[int]
    root: Path
    reports_dir: Path
    _made: frozenset[NotebookTask] = frozenset()
    _working: subprocess.Popen[bytes] | None = None
    _started: float = field(default_factory=time.monotonic)

    def __call__(self, folder: RunFolder) -> None:
        """Start a rendering if one is due; ``folder``, the run that ended, does not matter."""
        if self._working is not None:
            if self._working.poll() is None:
                return
            self._tell(self._working)
        possible, missing = possible_tasks(self.scale, self.only, self.seeds, self.root)
        of_runs = frozenset(own for own in possible if any(ARTEFACTS[name].arms for name in own.artefacts))
        made = {name for own in of_runs for name in own.artefacts}
        first = {name for name in EARLY if not self.only or name in self.only}
        if missing and of_runs - self._made and first <= made:  # without anything missing, the report itself is next
            self._made = of_runs
            self._working = subprocess.Popen(
                self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=end_with_parent
            )

    def wait(self) -> None:
        """Wait until a rendering at work has ended."""
        if self._working is not None:
            self._tell(self._working)

    def _command(self) -> list[str]:
        only = [text for name in self.only for text in ("--only", name)]
        seeds = ",".join(map(str, self.seeds))
        return [
            sys.executable, "-m", "hpt.cli", "report", "--so-far", "--scale", self.scale, "--seeds", seeds, *only,
            "--runs-dir", str(self.root), "--reports-dir", str(self.reports_dir),
        ]  # fmt: skip

    def _tell(self, rendering: subprocess.Popen[bytes]) -> None:
        said = rendering.communicate()[1].decode(errors="replace").strip().splitlines()
        self._working = None
        page = self.reports_dir / self.scale / "index.html"
        names = ", ".join(sorted(name for own in self._made for name in own.artefacts))
        after = duration(time.monotonic() - self._started)
        if rendering.returncode:  # the runs go on: what is wrong is said again, and in the exit code, at the end
            print(f"no report so far: {said[-1] if said else rendering.returncode}", file=sys.stderr, flush=True)
        else:
            print(f"report so far, after {after}: {page} ({names})", file=sys.stderr, flush=True)

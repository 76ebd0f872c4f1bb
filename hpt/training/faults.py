"""What a run does about steps that went wrong: skips and counts them, says so, and stops where going on is hopeless.

Skipped: an update whose gradient norm is not finite, or above ``optimizer.skip_above_norm`` (`hpt.training.engine`).
Stopped: many such updates in a row, or a batch in which the verifier settled no answer, for every reward would be
wrong.
"""

import math
import sys
from collections.abc import Sequence

from hpt.config.settings import OptimizerSettings
from hpt.rewards.workers import Verdict
from hpt.support.errors import TrainingFault
from hpt.training.engine import StepOutcome
from hpt.training.metrics import GradedRollouts

MOST_IN_A_ROW = 20  # updates without a finite gradient; such a run computes, but learns nothing
FEWEST_TIMEOUTS = 8  # answers that all timed out; fewer may be one question's
_SAID = 20  # messages; all are counted in the records


class FaultWatch:
    """Sees what became of a run's answers and updates.

    Args:
        settings: of the optimiser; the messages name them.
        quiet: say nothing; of several ranks one speaks.

    Example:
        >>> watch = FaultWatch(OptimizerSettings(), quiet=True)
        >>> watch.see_update(0, StepOutcome(float("nan"), applied=False))
        >>> watch.unsound
        1
    """

    def __init__(self, settings: OptimizerSettings, quiet: bool = False) -> None:
        self.settings, self.quiet = settings, quiet
        self.unsound = self.said = 0

    def see_verdicts(self, step: int, graded: Sequence[GradedRollouts]) -> None:
        """Look at a batch's verdicts.

        Raises:
            TrainingFault: the verifier settled none of its answers: rewards of 0 would be its failure.
        """
        late = sum(own.count(Verdict.timed_out) for own in graded)
        settled = sum(own.count(Verdict.correct) + own.count(Verdict.wrong) for own in graded)
        if late >= FEWEST_TIMEOUTS and settled == 0:
            message = f"step {step}: the verifier settled none of {late} answers in time; training on them would take "
            message += "its failure for the policy's. Raise rollout.verifier_timeout_s, or give the machine less to do"
            raise TrainingFault(f"{message}; the same command continues from the last checkpoint")

    def see_update(self, step: int, outcome: StepOutcome) -> None:
        """Look at what became of an update.

        Raises:
            TrainingFault: `MOST_IN_A_ROW` updates without a finite gradient.
        """
        if outcome.applied:
            self.unsound = 0
            return
        if math.isfinite(outcome.gradient_norm):
            why = f"above optimizer.skip_above_norm = {self.settings.skip_above_norm:g}"
        else:
            self.unsound += 1
            why = "not finite: the loss or a gradient is not a number, or infinite"
        self._say(f"step {step}: update skipped, its gradient norm {outcome.gradient_norm:g} is {why}; weights and "
                  "moments stay as they were (optim/skipped_updates counts it)")  # fmt: skip
        if self.unsound >= MOST_IN_A_ROW:
            message = (
                f"step {step}: {self.unsound} updates in a row had no finite gradient, and nothing is learnt; look "
            )
            message += "for the first one in metrics.parquet, and lower optimizer.learning_rate or mend the data"
            raise TrainingFault(f"{message}; the last checkpoint is kept")

    def _say(self, message: str) -> None:
        self.said += 1
        if not self.quiet and self.said <= _SAID:
            print(message, file=sys.stderr, flush=True)

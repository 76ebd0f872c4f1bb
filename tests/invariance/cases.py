"""The grid of real processes: what must not change the gradient, as data that test and worker share."""

from dataclasses import dataclass
from itertools import product

from tests.invariance.world import NORMALIZATIONS

STAGES = (0, 1, 2, 3)
#: Numbers of micro-batches on the busiest rank; None: one trajectory each.
SPLITS = (1, 2, 5, None)


@dataclass(frozen=True)
class Case:
    """One gradient of one step.

    ``broken``: "" or the mistake the worker makes on purpose; ``weightless``: all-zero trajectories run as well.
    """

    normalization: str
    split: int | None
    layout: str
    questions: str = "mixed"
    weightless: bool = False
    broken: str = ""

    def __str__(self) -> str:
        """For test ids and files."""
        parts = [self.normalization, f"split{self.split or 'each'}", self.layout, self.questions]
        return "-".join(parts + ["weightless"] * self.weightless + [self.broken] * bool(self.broken))


CASES = [
    # every two of the three together; all three at once in float64 (`test_float64`)
    *(Case(*own) for own in product(NORMALIZATIONS, SPLITS, ("padded",))),
    *(Case(*own) for own in product(("per_prompt",), SPLITS, ("packed", "shared"))),
    *(Case(*own) for own in product(("paper", "released"), (2,), ("packed", "shared"))),
    # one rank has nothing but a demonstration, and fewer micro-batches than the other
    *(Case(normalization, None, "padded", "lonely") for normalization in NORMALIZATIONS),
    Case("per_prompt", 2, "packed", "lonely"),
    Case("per_prompt", 2, "padded", weightless=True),
    Case("released", None, "packed", weightless=True),
    Case("per_prompt", 2, "shared", weightless=True),
]


def cases_of(stage: int) -> list[Case]:
    """All at stages 0 and 3; 1 and 2 only keep moments and gradients elsewhere: one normalisation in two layouts."""
    return [own for own in CASES
            if stage in (0, 3) or (own.normalization == "per_prompt" and own.layout != "packed")]  # fmt: skip


#: The measure must notice these; the worker makes the mistake in the real engine.
BROKEN = [Case("per_prompt", 5, "padded", broken="mean over micro-batches")]
BROKEN_ON_TWO_RANKS = [Case("per_prompt", 2, "padded", broken="mean over ranks")]

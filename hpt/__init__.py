"""hpt: check, understand and change *Towards a Unified View of Large Language Model Post-Training*.

Below is what a researcher imports: the core on a model and tensors of their own, without run folders, command line or
vLLM. ``docs/reference.md`` holds every docstring on one page, ``notebooks/own_loop.ipynb`` uses its core in one loop.

Everything is imported when it is first asked for: ``import hpt`` loads neither PyTorch nor vLLM nor DeepSpeed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from hpt.api import (
        gate,
        group_advantages,
        hpt_loss,
        intervals,
        load_answers,
        load_scores,
        token_logprobs,
        train,
        upge_loss,
        verify,
    )
    from hpt.evaluation.scores import pass_at_k
    from hpt.laboratory.checker import check_gradient
    from hpt.upge.estimator import ROWS

__version__ = "0.1.0"
__all__ = [
    "ROWS",
    "check_gradient",
    "gate",
    "group_advantages",
    "hpt_loss",
    "intervals",
    "load_answers",
    "load_scores",
    "pass_at_k",
    "token_logprobs",
    "train",
    "upge_loss",
    "verify",
]


#: What lies elsewhere than in `hpt.api`.
_ELSEWHERE = {
    "ROWS": "hpt.upge.estimator", "check_gradient": "hpt.laboratory.checker", "pass_at_k": "hpt.evaluation.scores",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "hpt.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

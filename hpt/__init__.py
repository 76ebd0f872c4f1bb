"""hpt: check, understand and change *Towards a Unified View of Large Language Model Post-Training*.

Below is what a researcher imports: the core on a model and tensors of their own, without run folders, command line or
vLLM. ``docs/reference.md`` holds every docstring on one page, ``notebooks/own_loop.ipynb`` uses all of it in one loop.

Everything is imported when it is first asked for: ``import hpt`` loads neither PyTorch nor vLLM nor DeepSpeed.
"""

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


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name == "ROWS":
        from hpt.upge.estimator import ROWS

        return ROWS
    if name == "check_gradient":
        from hpt.laboratory.checker import check_gradient

        return check_gradient
    if name == "pass_at_k":
        from hpt.evaluation.scores import pass_at_k

        return pass_at_k
    if name in __all__:
        from hpt import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

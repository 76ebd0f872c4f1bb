"""hpt: check, understand and change *Towards a Unified View of Large Language Model Post-Training*."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Give ``hpt.check_gradient`` when it is asked for: importing it here would load PyTorch."""
    if name == "check_gradient":
        from hpt.checker import check_gradient

        return check_gradient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

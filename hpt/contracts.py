"""What a part of a user's own must return; checked wherever one is called, so that a mistake is named where it is.

The package's own parts are held to the same by tests and are not checked on every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpt.errors import ConfigError, HptError

if TYPE_CHECKING:
    from torch import Tensor


def called(function: Callable[..., Any], field: str, name: str, takes: str, *arguments: Any) -> Any:
    """Return what a function of the user's own returns; a failure inside it becomes a sentence.

    Args:
        function: of the user.
        field, name: the setting and its value, for the error.
        takes: its arguments in words, for the error.
        arguments: handed to it.

    Raises:
        ConfigError: not callable, or it failed.
    """
    if not callable(function):
        raise ConfigError(field, name, f"a function ({takes})", f"it is a {type(function).__name__}: name the function")
    try:
        return function(*arguments)
    except HptError:
        raise
    except Exception as error:
        raise ConfigError(field, name, f"a function ({takes})", f"mend it: {type(error).__name__}: {error}") from error


def checked_coefficients(returned: Any, questions: int, field: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (alpha, beta) of a gate of the user's own if they are what Eq. 9 needs: [N] float64, finite, at least 0.

    Raises:
        ConfigError: anything else.

    Example:
        >>> checked_coefficients((np.ones(2), np.zeros(3)), 2, "gate.kind", "mine:gate")
        Traceback (most recent call last):
        hpt.errors.ConfigError: gate.kind = 'mine:gate': allowed is (alpha, beta), one number per question each; \
mend it: beta has shape (3,), not (2,)
    """
    allowed = "(alpha, beta), one number per question each"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ConfigError(field, name, allowed, f"mend it: it returned {_shown(returned)}, not a pair")
    for label, values in zip(("alpha", "beta"), returned, strict=True):
        _check_array(values, (questions,), label, field, name, allowed)
        if (values < 0).any():
            raise ConfigError(field, name, "coefficients of at least 0", f"mend it: {label} has {values.min():g}")
    return returned[0], returned[1]


def checked_advantages(returned: Any, lengths: Sequence[int], field: str, name: str) -> list[np.ndarray]:
    """Return the advantages of the user's own function if they are one finite [length] float64 array per trajectory.

    Raises:
        ConfigError: anything else.
    """
    allowed = "a list with one [length] float64 array per trajectory"
    if not isinstance(returned, list) or len(returned) != len(lengths):
        raise ConfigError(
            field, name, allowed, f"mend it: it returned {_shown(returned)} for {len(lengths)} trajectories"
        )
    for index, (values, length) in enumerate(zip(returned, lengths, strict=True)):
        _check_array(values, (int(length),), f"trajectory {index}", field, name, allowed)
    return returned


def checked_scales(returned: Any, trajectories: int, field: str, name: str) -> np.ndarray:
    """Return the scales of the user's own aggregation if they are [B] float64 and finite.

    Raises:
        ConfigError: anything else.
    """
    _check_array(returned, (trajectories,), "it", field, name, "one number per trajectory, [B] float64")
    return returned


def checked_tokens(returned: Any, like: Tensor, field: str, name: str) -> Tensor:
    """Return what the user's own mask, denominator or coefficient returned if it is one number per token, detached.

    Args:
        returned: by the function.
        like: [T], the log-probs: shape and type are theirs.
        field, name: the setting and its value, for the error.

    Raises:
        ConfigError: anything else.
    """
    kind = f"one number per token, {list(like.shape)} {like.dtype}, detached"
    if not isinstance(returned, type(like.detach())):
        raise ConfigError(field, name, kind, f"mend it: it returned {_shown(returned)}")
    if returned.shape != like.shape or returned.dtype != like.dtype:
        remedy = f"mend it: it returned {list(returned.shape)} {returned.dtype}; see .to(streams.logprobs.dtype)"
        raise ConfigError(field, name, kind, remedy)
    if returned.requires_grad:
        raise ConfigError(field, name, kind, "use streams.logprobs.detach(): the gradient goes through log pi alone")
    return returned


def _check_array(values: Any, shape: tuple[int, ...], label: str, field: str, name: str, allowed: str) -> None:
    if not isinstance(values, np.ndarray):
        raise ConfigError(field, name, allowed, f"mend it: {label} is {_shown(values)}, not a numpy array")
    if values.shape != shape:
        raise ConfigError(field, name, allowed, f"mend it: {label} has shape {values.shape}, not {shape}")
    if values.dtype != np.float64:
        raise ConfigError(field, name, allowed, f"mend it: {label} is {values.dtype}, not float64; see .astype(float)")
    if not np.isfinite(values).all():
        raise ConfigError(field, name, "finite numbers", f"mend it: {label} has {values[~np.isfinite(values)][0]}")


def _shown(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"

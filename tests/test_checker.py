"""The checker of one's own algorithms: the package's rows pass, and each kind of mistake is found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hpt
from hpt.config.settings import GateSettings
from hpt.laboratory.checker import GradientReport, check_gradient
from hpt.laboratory.experiment import OFFLINE
from hpt.methods.gate import FEEDBACK
from hpt.support.errors import ConfigError
from hpt.upge.advantage import ADVANTAGES
from hpt.upge.estimator import ROWS
from hpt.upge.reference import DENOMINATORS
from hpt.upge.stabilization import MASKS

Register = Callable[[str, Any], None]
TABLES: dict[str, dict[str, Any]] = {
    "mask": MASKS, "denominator": DENOMINATORS, "advantage": ADVANTAGES, "gate": FEEDBACK,
}  # fmt: skip


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Put a part under the name ``tried`` into the package's table of its kind."""
    return lambda kind, function: monkeypatch.setitem(TABLES[kind], "tried", function)


def failed(report: GradientReport) -> list[str]:
    return [own.check for own in report.checks if not own.ok]


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_package_hold(name: str) -> None:
    report = check_gradient(ROWS[name], data="demonstration" if name in OFFLINE else "rollouts")
    assert failed(report) == []


def test_a_method_is_its_gate_and_all_its_rows() -> None:
    report = hpt.check_gradient("hpt.examples.least_error_gate:METHOD")
    assert report.ok
    subjects = list(dict.fromkeys(own.subject for own in report.checks))
    assert subjects == [
        "gate hpt.examples.least_error_gate:gate",
        "row dr_grpo on rollouts",
        "row sft on demonstration",
    ]
    assert str(report).startswith("hpt.examples.least_error_gate:METHOD: all checks hold\nok")
    assert "1: 2.23/0.56" in report._repr_html_()
    report.raise_if_failed()


@pytest.mark.parametrize(
    ("kind", "function", "check"),
    [  # each takes (row, streams, advantages), an advantage (row, groups)
        # depends on what else is in the micro-batch: the mistake that the released code makes
        ("mask", lambda _row, streams, _given: (streams.logprobs > streams.logprobs.mean()).double(),
         "mask, denominator and coefficient in float32"),
        ("mask", lambda _row, streams, _given: (streams.logprobs > streams.logprobs.mean()).to(streams.entropies),
         "the same for other micro-batches, neighbours and orders"),
        ("mask", lambda _row, streams, _given: streams.logprobs.detach()[:3],
         "mask, denominator and coefficient in float64"),
        ("mask", lambda _row, streams, _given: 0 * streams.old_logprobs, "tokens that move the policy"),
        ("mask", lambda _row, streams, _given: streams.old_logprobs.add_(0.1) * 0 + 1,
         "twice the same, inputs untouched"),
        ("denominator", lambda _row, streams, _given: streams.logprobs, "mask, denominator and coefficient in float64"),
        ("denominator", lambda _row, streams, _given: streams.old_logprobs * float("nan"),
         "mask, denominator and coefficient in float64"),
        ("advantage", lambda _row, groups: [np.full(length, groups.rewards[0] - 0.5) for length in groups.lengths],
         "advantages know no order"),
    ],
)  # fmt: skip
def test_every_kind_of_mistake_is_found(kind: str, function: Any, check: str, register: Register) -> None:
    register(kind, function)
    report = check_gradient(replace(ROWS["dr_grpo"], name="mine", **{kind: "tried"}))
    assert check in failed(report)
    assert not report.ok
    assert "NOT as it should be" in str(report)
    with pytest.raises(ConfigError, match=r"row mine on rollouts: .*correct mine"):
        report.raise_if_failed()


def test_a_gradient_that_is_not_eq_6_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimator itself broken by one per mille: differences see it, whatever the row."""
    import hpt.upge.estimator as estimator

    right = estimator.weights_mask_ratio

    def wrong(*given: Any) -> tuple[Any, ...]:
        weights, *rest = right(*given)
        return 1.001 * weights, *rest

    monkeypatch.setattr(estimator, "weights_mask_ratio", wrong)
    assert failed(check_gradient(ROWS["grpo"])) == ["gradient against finite differences"]


def test_a_gate_that_sees_other_questions_is_found(register: Register) -> None:
    def relative(gate: GateSettings, correct: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        above = (correct > correct.mean()).astype(float)
        return above, 1 - above

    register("gate", relative)
    assert failed(check_gradient("tried", part="gate")) == ["a question does not see the others"]


def test_a_function_needs_to_say_what_it_is() -> None:
    assert check_gradient("hpt.upge.stabilization:clip", part="mask").ok
    with pytest.raises(
        ConfigError, match=r"subject = 'hpt\.upge\.stabilization:clip': .*name a part, one of gate, mask"
    ):
        check_gradient("hpt.upge.stabilization:clip")
    with pytest.raises(ConfigError, match=r"part = 'maks': allowed is one of gate, mask"):
        check_gradient("hpt.upge.stabilization:clip", part="maks")

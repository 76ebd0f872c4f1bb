"""The settings in which the lines of a table or figure differ, in words: what a reader needs to compare them fairly."""

from collections.abc import Sequence

from hpt.artefacts.scores import BASE
from hpt.artefacts.selection import of_method
from hpt.catalogue import arm_label
from hpt.config import RunConfig
from hpt.export import RunRecords
from hpt.methods import Method, method_named, resolved_row

#: Settings that weigh a component, as captions call them.
_WEIGHTS = {"sft_coefficient": "SFT", "offline_coefficient": "off-policy RL"}


def settings_text(records: Sequence[RunRecords], policy: str, methods: Sequence[str]) -> str:
    """Return learning rate, weights, clip and standard deviation of each method on a base, as one sentence.

    Args:
        records: runs, of which those of the arms are used; an arm without one is left out.
        policy: name of the base.
        methods: names of arms.
    """
    parts = []
    for name in methods:
        runs = of_method(records, name, policy)
        if runs and name != BASE:
            parts.append(f"{arm_label(name)} {', '.join(dict.fromkeys(_words(run.config) for run in runs))}")
    return f"Settings on the {policy} base: {'; '.join(parts)}. " if parts else ""


def _words(config: RunConfig) -> str:
    method = method_named(config.method)
    stages = [method_named(name) for name in method.stages] or [method]
    words = [f"rate {config.optimizer.learning_rate:g}"]
    if len(stages) > 1:
        first = config.optimizer.first_stage_learning_rate or config.optimizer.learning_rate
        share = 100 * config.schedule.first_stage_share
        words.append(f"after SFT at rate {first:g} in the first {share:.0f} % of the steps")
    if config.policy.after:
        words.append(f"from the end of {arm_label(config.policy.after)}")
    weights = dict.fromkeys(word for stage in stages for word in _weights(stage, config))
    return ", ".join([*words, *weights])


def _weights(method: Method, config: RunConfig) -> list[str]:
    words = []
    for component in method.components:
        if component.data == "rollouts":
            parameters = resolved_row(component, config).parameters
            if "clip_eps_low" in parameters:
                low = parameters["clip_eps_low"]
                words.append("no clip" if low is None else f"clip {low:g}")
            if "std" in parameters:
                words.append("no std" if parameters["std"] == "none" else "divided by std")
        elif len(method.components) > 1:
            weight = getattr(config.estimator, component.coefficient)
            words.append(f"{_WEIGHTS.get(component.coefficient, component.coefficient)} x {weight:g}")
    return words

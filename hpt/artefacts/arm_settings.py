"""The settings in which the lines of a table or figure differ, in words: what a reader needs to compare them fairly."""

from collections.abc import Sequence

from hpt.artefacts.scores import BASE
from hpt.artefacts.selection import of_method
from hpt.catalogue import arm_label
from hpt.config import RunConfig
from hpt.export import RunRecords
from hpt.methods import Method, resolved_row, stages_of

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
    stages = stages_of(config)
    words = [f"rate {stages[-1].config.optimizer.learning_rate:g}"]
    for stage in stages[:-1]:
        share, rate = 100 * stage.length / config.schedule.steps, stage.config.optimizer.learning_rate
        part = f"the {'next' if stage.start else 'first'} {share:.0f} % of the steps"
        words.append(f"after {stage.method.title} at rate {rate:g} in {part}")
    if config.policy.after:
        words.append(f"from the end of {arm_label(config.policy.after)}")
    weights = dict.fromkeys(word for stage in stages for word in _weights(stage.method, stage.config))
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

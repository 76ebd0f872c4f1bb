"""What each training method is, as data: which rows of Table 1 act on what, and which gate weighs them.

A method never appears in an ``if``. It says, per prompt, which rows apply with which coefficient: the gate of Eq. 8-10
maps the performance P to (alpha, beta), components on rollouts are multiplied by alpha, components on the demonstration
by beta. So HPT is ``gate x online row x offline row``. A custom method is another `Method` in your module, named on
the command line as ``my_module:MY_METHOD``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hpt.config.run_config import RunConfig, flat, merge, nest, validate
from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve
from hpt.upge.estimator import ROWS, Row

Data = Literal["rollouts", "demonstration"]

#: Masks and denominators that need the probability with which a token was sampled: unknown of a demonstration.
_RATIO_MASKS = ("clip", "sequence_clip", "clip_cov")
_RATIO_DENOMINATORS = ("old", "clipped_ratio", "sequence_ratio")


@dataclass(frozen=True)
class Component:
    """One row of Table 1 acting on one kind of data.

    Attributes:
        row: name of the row (`hpt.upge.estimator.ROWS`) or ``module:ROW``.
        data: the trajectories it acts on; alpha of Eq. 9 weighs rollouts, beta weighs demonstrations.
        coefficient: the setting of `EstimatorSettings` that multiplies it.
        scale: which half of the normalisation it uses. An off-policy RL term on a demonstration is normalised like
            one more rollout (LUFFY: every sequence of the group weighs the same), an SFT term like a demonstration.
        group: whether its advantage is taken over the rollouts alone or over rollouts and demonstration.
    """

    row: str
    data: Data
    coefficient: Literal["rl_coefficient", "sft_coefficient", "offline_coefficient"]
    scale: Data
    group: Literal["rollouts", "rollouts_and_demonstration"] = "rollouts"


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        name: spelling in settings and file names.
        title: spelling in the paper.
        components: the rows at work.
        settings: settings the method brings along (its gate, usually); anything can be overridden.
        samples: whether rollouts are drawn. Pure SFT needs none: P plays no role in it.
        demonstrations_per_group: how many of the n members of a group are the demonstration (LUFFY and SRFT: 1 of 8).
        stages: methods run one after the other, each with a fresh optimiser (SFT->GRPO); components are then empty.
            The first has ``schedule.first_stage_share`` of the steps, the others equal parts of the rest.
        like: a method of the package whose tuned settings (`hpt.config.scales.TUNED`) it takes, below ``settings``.
    """

    name: str
    title: str
    components: tuple[Component, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: bool = True
    demonstrations_per_group: int = 0
    stages: tuple[str, ...] = ()
    like: str = ""

    @property
    def needs_demonstrations(self) -> bool:
        """Whether a training question without a demonstration is an error for this method."""
        return any(component.data == "demonstration" for component in self.components)


_ONLINE = Component("dr_grpo", "rollouts", "rl_coefficient", "rollouts")
_GRPO = Component("grpo", "rollouts", "rl_coefficient", "rollouts")
_SFT = Component("sft", "demonstration", "sft_coefficient", "demonstration")
_OFFLINE = Component("luffy_offline", "demonstration", "offline_coefficient", "rollouts")
_OFFLINE_GROUP = replace(_OFFLINE, group="rollouts_and_demonstration")
_SWITCH = {"gate": {"kind": "switch"}}
_ONLY_RL = {"gate": {"kind": "constant", "alpha": 1.0, "beta": 0.0}}
_ONLY_SFT = {"gate": {"kind": "constant", "alpha": 0.0, "beta": 1.0}}
_BOTH = {"gate": {"kind": "constant", "alpha": 1.0, "beta": 1.0}}

#: The methods of Section 3 and 4. Paper: Tables 2, 3 and 5.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("sft", "SFT", (_SFT,), _ONLY_SFT, samples=False),
        Method("pretrain", "Base training", (_SFT,), _ONLY_SFT, samples=False),
        Method("grpo", "GRPO", (_GRPO,), _ONLY_RL),
        Method("sft_then_grpo", "SFT → GRPO", stages=("sft", "grpo")),
        Method("luffy", "LUFFY", (replace(_GRPO, group="rollouts_and_demonstration"), _OFFLINE_GROUP), _BOTH,
               demonstrations_per_group=1),
        Method("srft", "SRFT", (replace(_ONLINE, row="srft_rollout"), replace(_OFFLINE_GROUP, row="srft_offline"),
                                replace(_SFT, row="srft_sft")), _BOTH, demonstrations_per_group=1),
        Method("hpt", "HPT", (_ONLINE, _SFT), _SWITCH),
        Method("off_on", "OFF/ON", (_ONLINE, _OFFLINE), _SWITCH),
        Method("mix_on", "Mix/ON", (_ONLINE, _OFFLINE, _SFT),
               {**_SWITCH, "estimator": {"sft_coefficient": 0.1, "offline_coefficient": 1.0}}),
    )
}  # fmt: skip


def method_named(name: str) -> Method:
    """Return a method of the package, or a custom one, ``module:METHOD``.

    Raises:
        ConfigError: no such method, or something else under that name.

    Example:
        >>> method_named("hpt").title
        'HPT'
    """
    found = resolve(METHODS, name, "method")
    if not isinstance(found, Method):
        remedy = "name the Method, or write one: replace(METHODS['hpt'], name=..., title=..., settings=...)"
        raise ConfigError("method", name, f"a hpt.methods.methods.Method, not a {type(found).__name__}", remedy)
    return found


def names_used(config: RunConfig) -> tuple[str, ...]:
    """Return every name that ``config`` looks up: of methods, gate, rows and their parts.

    Raises:
        ConfigError: one of them does not exist.

    Example:
        >>> from hpt.config.run_config import validate
        >>> [name for name in names_used(validate({"gate": {"kind": "my_idea:gate"}})) if ":" in name]
        ['my_idea:gate']
    """
    names = [config.method, *method_named(config.method).stages]
    for stage in stages_of(config):
        settings = stage.config.estimator
        names += [stage.config.gate.kind, settings.online_row, settings.offline_row]
        for component in stage.method.components:
            row = resolved_row(component, stage.config)
            names += [component.row, row.mask, row.denominator, row.advantage, row.aggregation]
            names.append(row.trajectory_coefficient)
    return tuple(dict.fromkeys(names))


def resolved_row(component: Component, config: RunConfig) -> Row:
    """Return the row a component uses under ``config``: Table 1's, with the recipe's departures written over it.

    Every departure is a setting of ``estimator``; a clip bound of ``"none"`` leaves the mask at 1.

    Raises:
        ConfigError: a setting the row has no use for (a clip bound on a row without a ratio, say), or a row with a
            ratio on demonstrations.
    """
    settings = config.estimator
    is_rollout = component.data == "rollouts"
    chosen = settings.online_row if is_rollout else settings.offline_row
    name = component.row if chosen == "method" else chosen
    where = "estimator.online_row" if is_rollout else "estimator.offline_row"
    row = resolve(ROWS, name, where)
    if not isinstance(row, Row):
        remedy = "name the Row, or write one: replace(ROWS['dr_grpo'], name=..., mask='my_idea:mask')"
        raise ConfigError(where, name, f"a hpt.upge.estimator.Row, not a {type(row).__name__}", remedy)
    asks_sampler = row.mask in _RATIO_MASKS or row.denominator in _RATIO_DENOMINATORS
    if asks_sampler and not is_rollout:
        asked = f"row {name}" if chosen == "method" else where
        allowed = "a row that a demonstration can have: it has no ratio to a policy that sampled it, and none to clip"
        raise ConfigError(asked, name, allowed, "choose sft, dft, or an offline row of Table 1")
    changes: dict[str, Any] = {}
    for bound in ("clip_eps_low", "clip_eps_high"):
        value = getattr(settings, bound)
        if value == "row" or not is_rollout:
            continue  # demonstrations have no sampling ratio to clip
        if value == "none" and row.mask not in ("clip", "clip_cov"):
            continue  # the release removed PPO's clip; GSPO's sequence clip and CISPO's bound are what those rows are
        if bound in row.parameters:
            changes[bound] = None if value == "none" else value
        elif value != "none":
            remedy = f"set estimator.{bound} to row or none, or choose an online row with a ratio"
            raise ConfigError(f"estimator.{bound}", value, f"no clip: row {row.name} has no ratio to clip", remedy)
    if settings.advantage_std != "row" and "std" in row.parameters:
        changes["std"] = settings.advantage_std
    if settings.kl_coefficient and settings.kl_term == "advantage" and is_rollout:
        if "kl_coefficient" not in row.parameters:
            able = ", ".join(other.name for other in ROWS.values() if "kl_coefficient" in other.parameters)
            remedy = f"set estimator.kl_term to loss, or estimator.online_row to one of {able}"
            allowed = f"loss: row {row.name} has no KL in its advantage"
            raise ConfigError("estimator.kl_term", settings.kl_term, allowed, remedy)
        changes["kl_coefficient"] = settings.kl_coefficient
    row = row.with_parameters(**changes) if changes else row
    if component.coefficient == "offline_coefficient":
        if not settings.offline_shaping and row.denominator == "unit_shaped":
            row = replace(row, denominator="unit")
        if settings.offline_shaping and settings.shape_every_offline_term and row.denominator == "unit":
            row = replace(row, denominator="unit_shaped")
        alone = component.group == "rollouts"  # a demonstration that replaced its group's rollouts
        if alone and settings.offline_advantage == "own_reward":
            row = replace(row, advantage="own_reward")
    return row


def compares_with_rollouts(component: Component, config: RunConfig) -> bool:
    """Return whether a component's advantage is taken over a question's rollouts and demonstration together."""
    group_asked = config.estimator.offline_advantage == "group" and component.coefficient == "offline_coefficient"
    return component.group == "rollouts_and_demonstration" or group_asked


@dataclass(frozen=True)
class Stage:
    """A part of a run that is trained with one method; the whole run, where its method has no stages.

    Its steps are start, ..., end - 1; ``config`` is the run's, the settings of the method laid over it.
    """

    method: Method
    start: int
    end: int
    config: RunConfig


#: What a method may set as a stage; anything else belongs to the whole run.
_OF_A_STAGE = ("gate.", "estimator.", "optimizer.learning_rate", "optimizer.warmup_steps")


def stages_of(config: RunConfig) -> list[Stage]:
    """Return the stages of a run in order; some may have no steps.

    A stage trains with all ``settings`` of its method. These are overridden by the whole method's, what was tuned for
    it and what the user set (``over_stages``), and for the first stage by ``optimizer.first_stage_learning_rate`` and
    ``schedule.first_stage_updates_per_step``.

    Raises:
        ConfigError: a stage that has stages, or a method that as a stage cannot keep what it sets.
    """
    whole, steps = method_named(config.method), config.schedule.steps
    if not whole.stages:
        return [Stage(whole, 0, steps, config)]
    first, others = round(config.schedule.first_stage_share * steps), len(whole.stages) - 1
    starts = [0, *(first + round((steps - first) * index / others) for index in range(others)), steps]
    return [
        Stage(method_named(name), start, end, _config_of_stage(config, name, index == 0))
        for index, (name, start, end) in enumerate(zip(whole.stages, starts[:-1], starts[1:], strict=True))
    ]


def _config_of_stage(config: RunConfig, name: str, is_first: bool) -> RunConfig:
    method = method_named(name)
    if method.stages:
        remedy = "name its stages one by one"
        raise ConfigError(f"stages of {config.method}", name, "methods without stages", remedy)
    given = flat(method.settings)
    for setting, value in given.items():
        if not setting.startswith(_OF_A_STAGE):
            allowed = "nothing: a stage may set gate, estimator, optimizer.learning_rate and optimizer.warmup_steps"
            raise ConfigError(f"{setting} of {method.name}", value, allowed, "set it for the whole run")
    given = {setting: value for setting, value in given.items() if setting not in config.over_stages}
    if is_first and config.optimizer.first_stage_learning_rate is not None:
        given["optimizer.learning_rate"] = config.optimizer.first_stage_learning_rate
    if is_first and config.schedule.first_stage_updates_per_step is not None:
        given["schedule.updates_per_step"] = config.schedule.first_stage_updates_per_step
    return validate(merge(config.model_dump(mode="json"), nest(given)))


def stage_at(config: RunConfig, step: int) -> Stage:
    """Return the stage at work in step ``step`` (0-based), the last one where the run is done.

    Example:
        >>> settings = {"method": "sft_then_grpo", "schedule": {"steps": 10, "first_stage_share": 0.4}}
        >>> [stage_at(validate(settings), step).method.name for step in (0, 3, 4)]
        ['sft', 'sft', 'grpo']
    """
    stages = stages_of(config)
    return next((stage for stage in stages if step < stage.end), stages[-1])

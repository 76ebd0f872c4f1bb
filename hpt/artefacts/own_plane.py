"""Where an algorithm of one's own lies: in the bias-variance plane among all rows, and its gate among the gates."""

from collections.abc import Sequence

from hpt.artefacts.laboratory import DRAWS, QUESTIONS, draw_plane
from hpt.artefacts.output import Cell, Column, FigureArtefact, TableArtefact
from hpt.config import RunConfig
from hpt.methods import method_named
from hpt.scales import build_config

#: Methods that are drawn beside one's own, for comparison.
BESIDE = ("grpo", "hpt")


def own_in_plane(methods: Sequence[str], scale: str = "mini", policy: str = "weak") -> FigureArtefact:
    """Return the bias-variance plane of all rows with whole methods in it: one's own, HPT and GRPO.

    Args:
        methods: ``module:METHOD``, or names of the package's.
        scale, policy: whose settings the methods have (`hpt.scales.build_config`): coefficients, clip, std.

    Raises:
        ConfigError: no such method, or one that cannot be used.
    """
    from hpt.laboratory.experiment import USES
    from hpt.laboratory.sweeps import Size, plane, plane_sums

    configs = _configs(methods, scale, policy)
    data = plane(plane_sums(Size(QUESTIONS, DRAWS), {**{name: name for name in USES}, **configs}))
    title = "Your own algorithm in the bias-variance plane"
    caption = (
        f"As the plane of all rows ({QUESTIONS} questions, {DRAWS} draws of each), and in black whole methods as they "
        f"would train ({', '.join(configs)}): rows, gate, coefficients and normalisation together, one question a step."
    )
    return FigureArtefact("own_plane", title, data, lambda: draw_plane(data, tuple(configs)), caption)


def own_gates(methods: Sequence[str], scale: str = "mini", policy: str = "weak") -> TableArtefact:
    """Return the error of the gates of methods among HPT's, both always, and the least possible.

    Args:
        methods: ``module:METHOD``, or names of the package's; each gate has its own two best coefficients.
        scale, policy: whose settings the methods have.

    Raises:
        ConfigError: no such method, or one that cannot be used.
    """
    from hpt.laboratory.gate_sweeps import gate_table
    from hpt.laboratory.gates import gate_weights
    from hpt.laboratory.sweeps import Size

    gates = {f"gate of {name}": gate_weights(build_config(name, scale=scale, policy=policy).gate, 8)
             for name in methods}  # fmt: skip
    data, _, _ = gate_table(Size(QUESTIONS, DRAWS), more=gates)
    shown = [*gates, "switch at 0/8", "sigmoid at 0/8, slope 20", "no gate: both always", "RL alone", "SFT alone",
             "least error"]  # fmt: skip
    data = data[data["gate"].isin(shown)].reset_index(drop=True)
    objectives = list(dict.fromkeys(data["objective"]))
    rows = []
    for gate in shown:
        own = data[data["gate"] == gate].set_index("objective")
        cells = (Cell(f"{own.loc[o, 'error']:.3f}", f"[{own.loc[o, 'low']:.3f}, {own.loc[o, 'high']:.3f}]")
                 for o in objectives)  # fmt: skip
        rows.append((gate, tuple(cells)))
    caption = (
        "Expected squared error of alpha g_RL + beta g_SFT against the true gradient (1 = no better than no step), "
        "each gate with its own two best coefficients; switch at 0/8 is the gate of HPT. In brackets 95 % over "
        "questions, common to all gates: compare within a column."
    )
    columns = tuple(Column(str(objective), "error [95 %]") for objective in objectives)
    return TableArtefact("own_gates", "Your own gate among the gates", data, columns, tuple(rows), caption)


def _configs(methods: Sequence[str], scale: str, policy: str) -> dict[str, RunConfig]:
    configs = {name: build_config(name, scale=scale, policy=policy) for name in (*methods, *BESIDE)}
    return {f"{method_named(name).title} (method)": config for name, config in configs.items()}

"""Two runs compared, as frames: the settings in which they differ, every recorded quantity by step and at the end."""

import pandas as pd

from hpt.config.run_config import flat
from hpt.runs.records import RunRecords
from hpt.training.metrics import METRICS, axis_label


def differences(first: RunRecords, second: RunRecords) -> pd.DataFrame:
    """Return the settings in which two runs differ, then what is no setting and differs: commit, package versions.

    A column per run, as texts. Where the base's weights lie is left out: a place on one machine.
    """
    found = {}
    for run in (first, second):
        origin = {name: run.provenance.get(name) for name in ("commit", "numerics_version", "packages")}
        settings = run.config.model_dump(mode="json", exclude={"policy": {"path"}})
        found[run.name] = {name: "" if value is None else str(value)
                           for name, value in flat({**settings, **origin}).items()}  # fmt: skip
    table = pd.DataFrame(found).fillna("").rename_axis("setting").reset_index()
    return table[table[first.name] != table[second.name]].reset_index(drop=True)


def by_step(run: RunRecords) -> pd.DataFrame:
    """Return every recorded quantity by step, NaN where it was not measured, as in ``Entropy (nats/token)``."""
    names = [name for name in METRICS if name != "step" and name in run.metrics]
    metrics = run.metrics.set_index("step")[names].astype(float).rename(columns=axis_label)
    shares = run.validation.assign(share=100 * run.validation["correct"] / run.validation["samples"])
    curves = shares.pivot_table(index="step", columns="benchmark", values="share")
    return metrics.join(curves.add_prefix(f"{axis_label('score/validation')}, "), how="outer")


def final_values(first: RunRecords, second: RunRecords) -> pd.DataFrame:
    """Return the mean of every quantity over the last tenth of its values, and the second minus the first.

    A quantity that is one number throughout both runs is left out.
    """
    runs = [by_step(run) for run in (first, second)]
    both = pd.concat(runs)
    names = list(both.columns[both.nunique() > 1])
    last = [run.apply(_last_mean).reindex(names) for run in runs]
    return pd.DataFrame({first.name: last[0], second.name: last[1], "difference": last[1] - last[0]})


def _last_mean(values: pd.Series) -> float:
    there = values.dropna()
    return there.tail(max(1, round(len(there) / 10))).mean()

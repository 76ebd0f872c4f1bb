"""What a run costs and with what it was trained, as tables and captions say it; and what a report notes about bases."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from hpt.config.run_config import flat
from hpt.config.scales import TUNED
from hpt.reports.frames import costs, curves, label, mean_with_interval, settings
from hpt.reports.notebooks import source_rows
from hpt.reports.pages import notes
from hpt.reports.verdicts import verdicts
from hpt.runs.catalogue import ARTEFACTS, Arm
from hpt.runs.records import RunRecords

NOTHING = pd.DataFrame()


def run(arm: Arm, seed: int, **columns: Sequence[float]) -> RunRecords:
    metrics = pd.DataFrame({"step": range(len(next(iter(columns.values())))), **columns})
    return RunRecords(
        f"{arm.key}-s{seed}", arm.config("mini", seed), metrics, NOTHING, NOTHING, NOTHING, arms=(arm.key,)
    )


def arm(artefact: str, name: str) -> Arm:
    return next(own for own in ARTEFACTS[artefact].arms if (own.name or own.method) == name)


def test_costs_are_sums_over_all_steps_and_what_a_method_does_not_do_costs_it_nothing() -> None:
    hpt, sft = arm("costs", "hpt"), arm("costs", "sft")
    records = [
        run(hpt, seed, **{
            "rollout/tokens": [1000.0 * (1 + seed), 3000.0], "trained/rollout_tokens": [500.0, np.nan],
            "trained/demonstration_tokens": [200.0, 300.0], "time/step_s": [30.0, 90.0],
        })
        for seed in (0, 1, 2)
    ]  # fmt: skip
    records.append(run(sft, 0, **{"trained/demonstration_tokens": [400.0, 600.0], "time/step_s": [6.0, 6.0]}))
    frame = costs(records, ["sft", "grpo", "hpt"], "strong")
    assert frame["method"].tolist() == ["sft", "hpt", "hpt", "hpt"]
    columns = ["sampled", "trained_rollouts", "trained_demonstrations", "trained", "minutes"]
    assert frame[columns].iloc[0].tolist() == [0.0, 0.0, 1.0, 1.0, 0.2]
    own = frame[frame["method"] == "hpt"]
    assert own["sampled"].tolist() == [4.0, 5.0, 6.0]
    assert own[columns].mean().tolist() == [5.0, 0.5, 0.5, 1.0, 2.0]
    assert mean_with_interval(own["sampled"]) == "5.0 [2.5, 7.5]"  # 5 +- 4.303 / sqrt(3)


def test_a_metric_that_is_measured_now_and_then_keeps_its_gaps() -> None:
    cosine = [0.5, np.nan, -0.1, np.nan]
    records = [run(Arm("hpt", "weak"), 0, **{"rollout/reward": [0.1, 0.2, 0.3, 0.4], "gradient/sft_rl_cosine": cosine})]
    shown = curves(records, ["gradient/sft_rl_cosine"], ["hpt"]).set_index("step")["mean"]
    assert shown.dropna().to_dict() == {0: 0.5, 2: -0.1}


def test_settings_that_set_methods_apart_are_named() -> None:
    arms = [*ARTEFACTS["table2"].arms, *ARTEFACTS["table5"].arms]
    records = [run(own, seed, **{"rollout/reward": [0.0]}) for own in {own.key: own for own in arms}.values()
               for seed in (0, 1)]  # fmt: skip
    frame = settings(records)
    assert len(frame) == len({own.key for own in arms})  # one line each, whatever the seeds
    for base, tuned in TUNED["mini"].items():
        for method, chosen in tuned.items():
            for name, value in flat(chosen).items():
                if (base, label(method)) not in frame.index:
                    continue
                if name in frame:
                    assert frame.loc[(base, label(method)), name] == value
                else:  # chosen, and what every method shown has
                    assert {flat(run.config.model_dump())[name] for run in records} == {value}
    assert frame.loc[("strong", "GRPO"), "gate.kind"] == "constant"
    assert not {"seed", "schedule.steps", "policy.name"} & set(frame)


def test_a_threshold_is_a_number() -> None:
    rows = verdicts([], ["table2", "table4", "figure2"], "mini")
    assert any("points" in row.reading for row in rows)
    assert not any("the threshold" in row.reading for row in rows)


def test_whether_seeds_share_a_base_is_said_and_whether_one_was_trained_again() -> None:
    rows = [
        {"run": f"hpt-{seed}", "policy": "weak", "seed": seed, "base_weights": own, "commit": "unknown", "dirty": False,
         "numerics_version": 2}
        for seed, own in ((0, "a" * 64), (1, "a" * 64), (2, "b" * 64))
    ]  # fmt: skip
    found = notes("mini", [0, 1, 2], [], rows)
    assert any(own.startswith("Seeds share their bases") for own in found)
    again = notes("mini", [0, 1, 2], [], [*rows, {**rows[0], "base_weights": "c" * 64}])
    assert any("it was trained more than once" in own for own in again)
    assert not any("it was trained more than once" in own for own in found)
    assert not any("bases" in own for own in notes("mini", [0], [], rows[:1]))
    assert "a real language model" in notes("smollm", [0, 1, 2], [], rows)[0]


def test_damaged_files_of_runs_are_counted_on_the_page() -> None:
    rows = [{"run": "hpt-0", "policy": "weak", "seed": 0, "damaged": count} for count in (2, 0)]
    assert "2 damaged files of runs were noticed, set aside and made again." in notes("mini", [0], [], rows)
    assert not any("damaged" in own for own in notes("mini", [0], [], rows[1:]))


def test_the_weights_a_run_starts_from_stand_with_it_unless_they_are_another_runs() -> None:
    own = run(Arm("hpt", "weak"), 0, **{"rollout/reward": [0.0]})
    policy = own.config.policy.model_copy(update={"weights_sha256": "c" * 64})
    started = replace(own, config=own.config.model_copy(update={"policy": policy}))
    assert source_rows([started])[0]["base_weights"] == "c" * 64
    after = replace(own, config=own.config.model_copy(update={"policy": policy.model_copy(update={"after": "sft"})}))
    assert source_rows([after])[0]["base_weights"] is None

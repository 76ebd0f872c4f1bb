"""From records to the rows of the verdict table: which runs a claim is given, and what stands beside its verdict."""

from dataclasses import replace

import pandas as pd
import pytest

from hpt.paper.paper import claim_named, claims, headline_claims
from hpt.reports.verdicts import claim_records, forest, headlines, paper_evidence, verdicts
from hpt.runs.catalogue import ARTEFACTS, Arm
from hpt.runs.evaluations import evaluation_key
from hpt.runs.records import RunRecords
from hpt.runs.resolve import base_config, build_config, pretraining_config

NOTHING = pd.DataFrame()


def record(arm: Arm, seed: int, evaluations: pd.DataFrame = NOTHING) -> RunRecords:
    config = arm.config("tiny", seed)
    if arm.method == "pretrain":
        config = pretraining_config("tiny", arm.policy, "lookups-tiny", seed)
    frames = pd.DataFrame({"step": [0]}), NOTHING, NOTHING
    return RunRecords(f"{arm.key}-s{seed}", config, *frames, evaluations, arms=(arm.key,))


def counted(arm: Arm, seed: int, name: str, correct: int) -> RunRecords:
    settings, of_set, key = evaluation_key(record(arm, seed).config, name)
    rows = [(key, name, p.id, p.level, correct, settings.samples_per_problem) for p in of_set.problems]
    columns = ["key", "benchmark", "problem_id", "level", "correct", "samples"]
    return record(arm, seed, pd.DataFrame(rows, columns=columns))


def test_the_one_base_is_in_every_seed() -> None:
    """Where it is a published model, as at scale full."""
    name, base = "contest-a@256", counted(Arm("pretrain", "strong"), 0, "contest-a@256", 1)
    source = base_config(build_config("hpt", scale="full", policy="strong")).data.source
    data = base.config.data.model_copy(update={"source": source})
    records = [replace(base, config=base.config.model_copy(update={"data": data}))]
    records += [counted(Arm("grpo", "strong"), seed, name, seed) for seed in (3, 4)]
    given = claim_records(records, claim_named("figure2-rl-leaves-large-k"), "tiny")
    assert sorted(given.seeds) == [3, 4]
    assert given.seeds[3]["pretrain"] is not None
    assert [given.seeds[seed]["grpo"].counts["correct"].unique().tolist() for seed in (3, 4)] == [[3], [4]]


def test_the_base_of_one_seed_is_in_no_other() -> None:
    name = "contest-a@256"
    records = [counted(Arm("pretrain", "strong"), 3, name, 1)]
    records += [counted(Arm("grpo", "strong"), seed, name, seed) for seed in (3, 4)]
    given = claim_records(records, claim_named("figure2-rl-leaves-large-k"), "tiny")
    assert {seed: sorted(runs) for seed, runs in given.seeds.items()} == {3: ["grpo", "pretrain"], 4: ["grpo"]}


def test_an_arm_of_another_base_is_named_with_it() -> None:
    records = [record(Arm("hpt", base), 0) for base in ("weak", "strong", "llama")]
    given = claim_records(records, claim_named("figure6-weaker-stays-on-sft-longer"), "tiny")
    assert {name: own.metrics is not None for name, own in given.seeds[0].items()} == {"hpt": True, "hpt@strong": True}
    assert given.seeds[0]["hpt"] is not given.seeds[0]["hpt@strong"]


def test_arms_with_settings_are_told_apart() -> None:
    gates = list(ARTEFACTS["table6"].arms)
    given = claim_records([record(arm, 0) for arm in gates], claim_named("figure8-hpt_gate2-more-offline"), "tiny")
    assert set(given.seeds[0]) == {"hpt_gate2", "hpt_gate1"}


@pytest.mark.parametrize(
    ("claim", "evidence"),
    [
        ("table3-weak-hpt-above-sft", "+5.0 points (HPT 41.9, SFT 36.9)"),
        (
            "section2-grpo-gains-more-on-qwen",
            "+13.4 points (GRPO 34.0, base 15.6, GRPO, Llama base 9.6, base, Llama base 4.6)",
        ),
        ("section2-sft-effective-on-llama", "+1.3 points (SFT 5.9, base 4.6)"),
        ("table3-llama-hpt-above-luffy", "+5.0 points (HPT 18.2, LUFFY 13.2)"),
        ("table2-ood-hpt-above-luffy", "+2.2 points (HPT 62.3, LUFFY 60.1)"),
        ("table2-aime24-hpt-above-srft", "+14.6 points (HPT 33.0, SRFT 18.4)"),
        ("table5-mix_on-above-off_on", "+2.2 points (Mix/ON 40.3, OFF/ON 38.1)"),
        ("table6-gate-0-best", "+2.9 points (HPT 41.9, HPT, gate 1/8 38.7, HPT, gate 2/8 39.0)"),
        (
            "table4-grpo-gains-grow",
            "GRPO +X %: Level 1 0, Level 2 5.6, Level 3 8.6, Level 4 13.3, Level 5 20.1, Overall 11.6",
        ),
        ("table2-hpt-consistently-best", "highest printed value on 7 of 8 sets"),
        ("figure2-hpt-highest", "curves without printed values"),
        ("section3-hpt-costs-less-seconds", "no number printed"),
    ],
)
def test_the_papers_evidence(claim: str, evidence: str) -> None:
    assert paper_evidence(claim_named(claim)) == evidence


def test_without_records_every_claim_says_so() -> None:
    rows = verdicts([], list(ARTEFACTS), "mini")
    asked = [claim for claim in claims() if claim.scale in ("", "mini")]
    assert [row.claim for row in rows] == [claim.id for claim in asked]
    assert {row.verdict for row in rows} == {"not testable here"}
    for row, claim in zip(rows, asked, strict=True):
        reason = "no seed has runs of" if claim.methods else f"{claim.parameters['frame']} was not made"
        assert reason in row.explanation
        assert row.kind in (("exploratory", "confirmatory") if claim.methods else ("",))


def test_a_report_opens_with_whom_a_method_beats_and_draws_every_seed() -> None:
    numbers = {"effect": 7.5, "low": 4.3, "high": 10.6, "per_seed": [6.0, 7.5, 9.0]}
    rows = [
        {"claim": f"table3-weak-hpt-above-{other}", "kind": "confirmatory", "verdict": verdict,
         "ours": "+7.5 points", "interval": "[+4.3, +10.6]", "numbers": numbers}
        for other, verdict in (("sft", "holds"), ("grpo", "undecided"))
    ]  # fmt: skip
    assert headlines(rows, [0, 1, 2]) == [
        "HPT is ahead of 1 of 2 baselines on the weak base.",
        "Points ahead in the average, over 3 seeds with 95 % intervals, in distribution corrected for 13 contrasts, "
        "out of it each alone:",
        "On the weak base HPT is better than SFT (+7.5 [+4.3, +10.6]); undecided against GRPO.",
        "Of 2 claims on training 1 holds, 1 is undecided.",
    ]
    for row, verdict in zip(rows, ("smaller than the paper's", "does not hold (level)"), strict=True):
        row["verdict"] = verdict
    assert headlines(rows, [0, 1, 2])[2:] == [
        "On the weak base HPT is better, by less than in the paper, than SFT (+7.5 [+4.3, +10.6]); "
        "level with GRPO (+7.5 [+4.3, +10.6]).",
        "Of 2 claims on training 1 is smaller than the paper's, 1 does not hold (level).",
    ]
    lines = forest(rows, "mini")
    assert [(line["group"], line["other"], line["paper"]) for line in lines] == [
        ("mini: Weak base (stands for Qwen2.5-Math-1.5B; 3 seeds)", "SFT", 5.0),
        ("mini: Weak base (stands for Qwen2.5-Math-1.5B; 3 seeds)", "GRPO", 7.9),
    ]
    assert lines[0]["dots"] == [6.0, 7.5, 9.0]


def test_headline_claims_are_claims() -> None:
    assert set(headline_claims()) <= {claim.id for claim in claims()}

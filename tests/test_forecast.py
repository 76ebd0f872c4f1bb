"""What a plan will take: against the committed records, each predicted from the others, and part by part."""

from dataclasses import replace
from pathlib import Path

import pytest

from hpt.experiments import PlannedRun, planned_runs
from hpt.export import record_folders
from hpt.files import read_json
from hpt.forecast import REPORTS, draws_rollouts, forecast, run_seconds
from hpt.timings import PROCESS_S, Rates, Timing, timing
from tests.fabricated import fabricate

#: A run whose training took this much longer per token than that of others like it shared its core: what it took says
#: nothing of what it takes.
DISTURBED = 1.15
#: The same of its sampling, for a run that is the only one of its method: per token it hangs on more than the machine.
DISTURBED_SAMPLING = 1.5


def own(method: str = "hpt", policy: str = "weak", **changed: object) -> Timing:
    """A run of 100 steps: 1 s to sample 1,000 tokens and 2 s to train on as many, 10 s before it starts."""
    base = Timing("name", method, policy, 100, 32, 1000.0, 1000.0, 1.0, 2.0, 10.0, 0)
    return replace(base, **changed)  # type: ignore[arg-type]


def predicted(run: Timing, rates: Rates) -> float:
    """Seconds on the clock of the run's process, which starts after its imports."""
    samples = draws_rollouts(run.method)
    step_s = rates.step_s(run.method, run.policy, run.steps, run.prompts, samples)
    start_s = rates.start_s(run.method) - PROCESS_S
    return start_s + run.steps * step_s + run.validated * rates.answer_s(run.policy)


def undisturbed(run: Timing, rates: Rates) -> bool:
    sampling = run.sampling_s / run.sampled / rates.sampling_token_s(run.policy) if run.sampled else 1.0
    return rates.slowness(run) < DISTURBED and sampling < DISTURBED_SAMPLING


def test_every_committed_run_from_the_others() -> None:
    by_processor: dict[str, list[Timing]] = {}
    for folder in record_folders(REPORTS / "mini" / "records"):
        if run := timing(folder):
            by_processor.setdefault(read_json(folder / "provenance.json")["processor"], []).append(run)
    there = [run for alike in by_processor.values() for run in alike]
    if len(there) < 20:
        pytest.skip("few records")
    pairs = {}
    # within a processor: what another one took says neither what a run takes here nor whether it was disturbed
    for alike in by_processor.values():
        rates = Rates(alike)
        pairs |= {run.name: (run.wall_s, predicted(run, Rates([other for other in alike if other is not run])))
                  for run in alike if run.wall_s is not None and undisturbed(run, rates)}  # fmt: skip
    recorded, expected = (sum(values) for values in zip(*pairs.values(), strict=True))
    errors = {name: guess / took - 1 for name, (took, guess) in pairs.items()}
    for name, error in sorted(errors.items(), key=lambda pair: pair[1]):
        print(f"{error:+5.0%}  recorded {pairs[name][0]:6.0f} s  {name}")
    print(f"{expected / recorded - 1:+.1%} in all, of {len(pairs)} undisturbed runs among {len(there)}")
    assert len(pairs) >= len(there) / 2
    assert abs(expected / recorded - 1) < 0.3
    assert sum(abs(error) < 0.3 for error in errors.values()) >= 0.9 * len(errors), errors


def test_a_step_grows_with_its_questions_and_the_work_with_the_steps() -> None:
    rates = Rates([own()])
    assert rates.step_s("hpt", "weak", 100, 32, True) == pytest.approx(3.0)
    assert rates.step_s("hpt", "weak", 100, 64, True) == pytest.approx(6.0)
    assert rates.start_s("hpt") == pytest.approx(PROCESS_S + 10)


def test_tokens_come_from_the_runs_nearest_in_length_and_seconds_from_the_undisturbed() -> None:
    longer = own(steps=400, sampled=4000.0, trained=2000.0, sampling_s=12.0, training_s=12.0)  # 3 times as slow
    rates = Rates([own(), own(), longer])
    assert rates.step_s("hpt", "weak", 300, 32, True) == pytest.approx(4.0 + 4.0)
    assert rates.slowness(longer) == pytest.approx(3.0)
    assert rates.slowness(own()) == 1.0


def test_a_base_never_timed_is_judged_by_its_own_training() -> None:
    bases = [own("pretrain", policy, sampled=0.0, sampling_s=0.0, training_s=seconds)
             for policy, seconds in (("weak", 1.0), ("strong", 2.0))]  # fmt: skip
    rates = Rates([own(), *bases])
    assert rates.step_s("hpt", "strong", 100, 32, True) == pytest.approx(2 * 3.0)
    assert rates.step_s("mine:METHOD", "weak", 100, 32, True) == pytest.approx(3.0)  # as the methods that sample
    assert Rates([]).step_s("hpt", "weak", 100, 32, True) == 0.0


def test_answers_cost_what_validations_took() -> None:
    rates = Rates([own(), own(rest_s=110.0, validated=10_000)])
    assert rates.answer_s("weak") == pytest.approx(0.01)
    assert Rates([own()]).answer_s("weak") == pytest.approx(1000 / 32 / 8 * 0.001)  # an answer of training


def test_an_interrupted_run_tells_its_steps_but_not_its_start() -> None:
    rates = Rates([own(rest_s=None)])
    assert rates.step_s("hpt", "weak", 100, 32, True) == pytest.approx(3.0)
    assert rates.start_s("hpt") == PROCESS_S
    assert own(rest_s=None).wall_s is None


def test_a_slower_machine_is_told_by_what_was_timed_on_both() -> None:
    here, there = own(sampling_s=2.0, training_s=4.0), own()
    assert Rates([here]).speed_against(Rates([there, own("grpo")])) == pytest.approx(2.0)
    assert Rates([here]).speed_against(Rates([own("grpo")])) == 1.0
    assert own().times(2.0).wall_s == pytest.approx(2 * 310.0)


def runs_of(root: Path, artefact: str = "table6") -> list[PlannedRun]:
    return planned_runs("mini", [artefact], [0], root)


def test_final_evaluations_are_counted_once_and_by_their_answers(tmp_path: Path) -> None:
    rates = Rates([own(), own(rest_s=110.0, validated=10_000)])
    run = next(own for own in runs_of(tmp_path) if own.method != "pretrain")
    none = run_seconds(replace(run, evaluations=()), rates)
    one, many = (run_seconds(replace(run, evaluations=(f"contest-a@{count}",)), rates) for count in (1, 256))
    assert one - none == pytest.approx(30 * 0.01)
    assert many - none == pytest.approx(256 * 30 * 0.01)


def test_what_is_done_of_a_run_costs_nothing(tmp_path: Path) -> None:
    rates = Rates([own(), own(rest_s=110.0, validated=10_000)])
    run = fabricate(tmp_path, ["table6"])[-1]
    assert run.folder is not None
    assert run_seconds(run, rates) == pytest.approx(PROCESS_S + 10)
    next((run.folder.path / "evaluations").glob("contest-a-*")).unlink()
    again = next(own for own in planned_runs("tiny", ["table6"], [0], tmp_path) if not own.done)
    assert PROCESS_S + 10 < run_seconds(again, rates) < PROCESS_S + 10 + 5  # one set, no training
    assert forecast([run], tmp_path, "tiny", 2).seconds == ()


def test_runs_side_by_side_wait_for_what_they_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.forecast.run_seconds", lambda run, rates: 10.0 if run.method == "pretrain" else 40.0)
    # one base, then three gates
    assert [forecast(runs_of(tmp_path), tmp_path, "mini", jobs).wall_s for jobs in (1, 2, 3, 9)] == [130, 90, 50, 50]
    # a base, SFT, and GRPO after it: no two at once
    assert forecast(runs_of(tmp_path, "figure3"), tmp_path, "mini", 2).wall_s == 90
    expected = forecast(runs_of(tmp_path), tmp_path, "mini", 2)
    assert expected.seconds == (10, 40, 40, 40)
    assert "committed records" in expected.basis


def test_a_base_is_made_in_its_place_whatever_the_first_seed_is(tmp_path: Path) -> None:
    """Bases are of seed 0: sorted by it, the last one needed would come before all runs of another seed."""
    first, second = ([own.arms for own in planned_runs("mini", [], [seed], tmp_path)] for seed in (0, 1))
    assert first == second
    assert first.index(("pretrain-llama",)) > first.index(("pretrain-weak",)) + 3

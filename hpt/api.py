"""What ``import hpt`` offers: the estimator, the gate, the mixed loss, grading and scores on your tensors.

Tensors are padded, as Hugging Face code has them, and every function follows one convention:

    B, T           trajectories (rows), tokens (columns); N questions with n rollouts each
    response_mask  [B, T], True (or 1) at the response tokens of ``input_ids``, False at prompt and padding
    [b, t]         of log-probs, entropies and advantages belongs to the *token* at t, not to the position before it,
                   which predicts it; nothing is read where the mask is False, and results are 0 there

Flattening is done here, the computing by the trainer's code (`hpt.upge`): a gradient taken through these functions
is the one that ``hpt train`` takes. torch is imported late, because gate and scores do not need it.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from hpt.support.errors import ConfigError, warn
from hpt.support.plugins import resolve
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, aggregation_rule, trajectory_scales
from hpt.upge.estimator import ROWS, Term
from hpt.upge.estimator import upge_loss as estimator_loss
from hpt.upge.row import Row, TokenStreams

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from hpt.config.run_config import RunConfig
    from hpt.evaluation.intervals import Interval
    from hpt.rewards.workers import Verifier
    from hpt.runs.folder import RunFolder
    from hpt.runs.records import RunRecords

#: Advantages that are one number per trajectory and follow from rewards and groups alone.
_PER_TRAJECTORY = ("one", "own_reward", "signed", "group", "leave_one_out")
#: Aggregations of Table 1's rows: what they divide by can be counted in a batch.
_COUNTED_IN_A_BATCH = {row.aggregation for row in ROWS.values()}
_NORMALIZATIONS = ("paper", "per_prompt", "released", "row")
#: A log-prob above this is a probability, or not a number; rounding stays far below it.
_LARGEST_LOGPROB = 1e-3
#: Share of the questions of `train`'s ``data`` that is held out where no validation set is named.
HELD_OUT_SHARE = 0.1
#: First columns of `load_scores` and `load_answers`.
_ABOUT_A_RUN = ("run", "method", "base", "seed", "settings")
#: Models whose logits `token_logprobs` was compared with.
_compared: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def token_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    response_mask: Tensor,
    temperature: float = 1.0,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log pi of every response token and the policy's entropy there, both with gradient.

    The likelihood gradient of Eq. 6. Logits exist for one chunk of tokens at a time, forward and backward, so [B, T, V]
    is never in memory (`hpt.upge.likelihood`). The model keeps its head, mode and weights; its dropout, in
    training mode, acts. The first call for a model compares the result with the model's logits on a few tokens.

    Args:
        model: a causal language model of transformers with a linear head.
        input_ids: [B, T] int64, prompt and response.
        response_mask: [B, T]; False in the first column, which nothing predicts.
        temperature: logits are divided by it, as the sampler divides them.
        attention_mask: [B, T], 1 at prompt and response. Needed where prompts are padded on the left; None is right
            where all padding is behind the response.

    Returns:
        logprobs [B, T] and entropies [B, T], nats; float32, or float64 for a float64 model; 0 outside the mask.

    Raises:
        ConfigError: shapes that do not match, masks of other values than 0 and 1, a response token that nothing
            predicts, or a model whose `forward` gives other log-probs (a head unknown here).

    Example:
        >>> import hpt, torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=1, n_positions=16))
        >>> input_ids = torch.tensor([[5, 6, 7, 8], [5, 9, 10, 0]])  # two prompt tokens each; 0 is padding
        >>> response_mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0]])
        >>> logprobs, entropies = hpt.token_logprobs(model, input_ids, response_mask)
        >>> (logprobs < 0).tolist()
        [[False, False, True, True], [False, False, True, False]]
    """
    from torch import nn

    mask = _mask("response_mask", response_mask)
    if input_ids.shape != mask.shape:
        raise ConfigError("input_ids", _shape(input_ids), f"the shape of response_mask, {_shape(mask)}", "pad alike")
    if not temperature > 0:
        raise ConfigError("temperature", temperature, "a number above 0", "give the sampler's temperature")
    if bool(mask[:, 0].any()):
        allowed, remedy = "False there: no token predicts the first", "put the prompt, or a begin token, before it"
        raise ConfigError("response_mask", "True in the first column", allowed, remedy)
    attends = None if attention_mask is None else _mask("attention_mask", attention_mask)
    if attends is not None and (attends.shape != mask.shape or not bool((attends & attends.roll(1, 1))[mask].all())):
        allowed = f"{_shape(mask)}, 1 at every response token and at the token before it"
        found = "0 at a response token or before it" if attends.shape == mask.shape else _shape(attends)
        raise ConfigError("attention_mask", found, allowed, "give the mask of prompt and response together")
    if not isinstance(model, nn.Module):
        remedy = "load it with transformers' AutoModelForCausalLM"
        raise ConfigError("model", model, "a causal language model of PyTorch, not a name", remedy)
    if model not in _compared:
        _compare_with_logits(model, input_ids[0] if attends is None else input_ids[0][attends[0]])
        _compared.add(model)
    logprobs, entropies = _flat_logprobs(model, input_ids, mask, temperature, attends)
    return _padded(logprobs, mask), _padded(entropies, mask)


def group_advantages(rewards: Tensor | ArrayLike, group: Tensor | ArrayLike, row: Row | str = "dr_grpo") -> Tensor:
    """Return the advantage of every trajectory: for Dr. GRPO R - mean R of its question, for GRPO Eq. 5.

    Statistics are taken over exactly the trajectories given: pass all rollouts of a question, and its demonstration
    only where the method compares it with them (G_on u G_off of Table 1).

    Args:
        rewards: [B], R of Eq. 7.
        group: [B] whole numbers, the question a trajectory answers.
        row: of Table 1; ``row.with_parameters(std="population")`` for another standard deviation.

    Returns:
        [B], in the type of ``rewards`` where that is a tensor of floats, else float32.

    Raises:
        ConfigError: shapes that do not match, or a row whose advantages need more than rewards (PPO, REINFORCE++, a
            running baseline, a KL penalty): `hpt.upge.advantage.advantages` has these.

    Example:
        >>> import hpt
        >>> hpt.group_advantages([1, 0, 0, 0, 1, 1, 1, 1], group=[0, 0, 0, 0, 1, 1, 1, 1])
        tensor([ 0.7500, -0.2500, -0.2500, -0.2500,  0.0000,  0.0000,  0.0000,  0.0000])
    """
    import torch

    row = _row(row)
    if row.advantage not in _PER_TRAJECTORY:
        allowed = f"a row whose advantage is one of {', '.join(_PER_TRAJECTORY)}"
        raise ConfigError(f"row {row.name}: advantage", row.advantage, allowed, "call hpt.upge.advantage.advantages")
    reward = _vector("rewards", rewards)
    rollouts, lengths = np.zeros(len(reward), dtype=bool), np.ones(len(reward), dtype=np.int64)
    found = advantages(row, RolloutGroups(reward, _whole("group", group, len(reward)), rollouts, lengths))
    like = rewards if isinstance(rewards, torch.Tensor) else torch.empty(0)
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return torch.tensor(np.concatenate(found), dtype=dtype, device=like.device)


def upge_loss(
    row: Row | str,
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor | ArrayLike,
    response_mask: Tensor,
    *,
    entropies: Tensor | None = None,
    rewards: Tensor | ArrayLike | None = None,
    keep: Tensor | None = None,
    max_response_tokens: int | None = None,
    counts: StepCounts | None = None,
) -> Tensor:
    """Return the loss of one row of Table 1 on a batch; its *gradient* is the method's, its value is not.

    Eq. 6: ``-sum(scale * mask * advantage * pi / pi_ref * log pi)``, everything before log pi held fixed. Its gradient
    is that of the loss of PPO, GRPO, ... (tested row by row against autograd), but the number itself is a surrogate:
    neither plot it as that loss nor compare it between rows.

    Args:
        row: of ``hpt.ROWS``, or a custom one.
        logprobs: [B, T] with gradient, as `token_logprobs` returns them.
        old_logprobs: [B, T] of the policy that sampled; None = this policy, every ratio is then 1 (the first update on
            a batch, and rows without a ratio: SFT, DFT, REINFORCE).
        advantages: [B] or [B, T]; factors of a trajectory, such as alpha of its question, can be multiplied in.
        response_mask: [B, T].
        entropies: [B, T], read by SRFT's rows and by custom parts.
        rewards: [B], read by ``srft_rollout``.
        keep: [B, T], read by ``clip_cov``: the tokens that `hpt.upge.stabilization.clip_cov_keep` lets through.
        max_response_tokens: L, by which Dr. GRPO divides; None = the longest response here. Give the sampler's limit:
            a token weighs more in a batch of short responses otherwise.
        counts: of the whole optimiser step where this batch is a part of it, so that the losses of the parts add up;
            None = this batch is the step. Needed by aggregations that divide by more than a batch shows.

    Returns:
        Scalar. Without a nonzero advantage it is 0, and so is its gradient.

    Raises:
        ConfigError: shapes that do not match, probabilities in place of log-probs, a row that lacks what it needs.

    Example:
        >>> import hpt, torch
        >>> response_mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
        >>> logprobs = torch.tensor([[0.0, -0.5, -1.0], [0.0, -0.7, 0.0]], requires_grad=True)
        >>> hpt.upge_loss(hpt.ROWS["sft"], logprobs, None, torch.ones(2), response_mask).backward()
        >>> logprobs.grad  # minus one over three tokens
        tensor([[ 0.0000, -0.3333, -0.3333],
                [ 0.0000, -0.3333,  0.0000]])
    """
    import torch

    row, mask = _row(row), _mask("response_mask", response_mask)
    streams, lengths = _streams(row, logprobs, old_logprobs, entropies, mask), mask.sum(1).cpu().numpy()
    if counts is None and row.aggregation not in _COUNTED_IN_A_BATCH:
        allowed = f"a StepCounts: {row.aggregation} may divide by more than a batch shows"
        raise ConfigError("counts", None, allowed, "pass hpt.upge.aggregation.StepCounts of the optimiser step")
    longest = _positive("max_response_tokens", max_response_tokens, int(lengths.max()))
    counts = counts or StepCounts(0, 0, longest, sequences=len(mask), tokens=int(lengths.sum()))
    given = torch.as_tensor(advantages, dtype=logprobs.dtype, device=logprobs.device).detach()
    if given.shape not in (mask.shape, mask.shape[:1]):
        allowed = f"[B] or [B, T]: {_shape(mask)[:1]} or {_shape(mask)}"
        raise ConfigError("advantages", _shape(given), allowed, "pass one per row, or one per token")
    if not bool(given.isfinite().all()):
        raise ConfigError("advantages", "values that are not finite", "finite numbers", "correct the rewards")
    component = Term(
        row=row,
        advantages=(given if given.dim() == 2 else given[:, None].expand_as(mask))[mask],
        scales=logprobs.new_tensor(np.repeat(trajectory_scales(row.aggregation, lengths, counts), lengths)),
        keep=None if keep is None else _ones("keep", _tokens("keep", keep, mask)).to(logprobs.dtype),
        rewards=None if rewards is None else logprobs.new_tensor(_vector("rewards", rewards, len(mask))),
    )
    return estimator_loss(streams, [component]).loss


def gate(correct: Tensor | ArrayLike, n: int, count: int = 0, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (alpha, beta) of every question: how much RL and how much SFT it gets.

    Eq. 8-10. By default HPT's switch: SFT where P <= gamma, RL above. gamma is given as a count of correct rollouts,
    because P only takes the values 0/n ... n/n.

    Args:
        correct: [N] whole numbers, correct rollouts of each question: n P.
        n: rollouts per question.
        count: n gamma; at 0, SFT only where every rollout is wrong.
        settings: others of `hpt.config.settings.GateSettings`: ``kind`` (switch, linear, sigmoid, constant, or
            module:function), ``inclusive``, ``slope``, ``alpha``, ``beta``.

    Returns:
        alpha [N] and beta [N], float64.

    Raises:
        ConfigError: n below 1, a count outside 0 ... n, or an unknown or impossible setting.

    Example:
        >>> import hpt
        >>> hpt.gate([0, 1, 8], n=8)
        (array([0., 1., 1.]), array([1., 0., 0.]))
        >>> hpt.gate([0, 2, 8], n=8, kind="linear")
        (array([0.  , 0.25, 1.  ]), array([1.  , 0.75, 0.  ]))
    """
    from hpt.config.run_config import validate
    from hpt.methods.gate import feedback_coefficients
    from hpt.runs.resolve import check_gate

    n = _positive("n", n)
    counts = _whole("correct", correct, most=n)
    (threshold,) = _whole("count", [count], most=n).tolist()
    config = validate({"gate": {"count": threshold, **settings}, "rollout": {"rollouts_per_prompt": n}})
    check_gate(config.gate, n)
    return feedback_coefficients(config.gate, counts, n)


def hpt_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    response_mask: Tensor,
    *,
    rewards: Tensor | ArrayLike,
    group: Tensor | ArrayLike,
    is_demonstration: Tensor | ArrayLike,
    alpha: Tensor | ArrayLike,
    beta: Tensor | ArrayLike,
    row: Row | str = "dr_grpo",
    normalization: Literal["paper", "per_prompt", "released", "row"] = "paper",
    rollouts_per_prompt: int | None = None,
    max_response_tokens: int | None = None,
) -> Tensor:
    """Return HPT's loss of a batch that mixes rollouts and demonstrations; its gradient is HPT's, its value is not.

    As with `upge_loss` the number is a surrogate: plot the reward and the demonstrations' negative log-likelihood.

    Eq. 13: the mean over N questions of alpha L_RL (Eq. 11, on rollouts) + beta L_SFT (Eq. 12, on the demonstration).
    How the halves compare in size depends on the normalisation, so a coefficient belongs to one of them:

        paper       a rollout's token 1 / (N n), a demonstration's 1 / (N length): Eq. 11 to 13 as printed
        per_prompt  1 / (N n L) and 1 / (N L)
        released    1 / (8 L) and 1 / (demonstration tokens): what the authors' scripts do on 8 GPUs
        row         the row's rule and 1 / (demonstration tokens)

    N is the number of questions in ``alpha``, not in the batch: rollouts of a question with alpha = 0 and
    demonstrations of one with beta = 0 weigh nothing and may be left out. Under ``paper`` and ``per_prompt`` a step may
    also be several batches of whole questions whose losses add up.

    Args:
        logprobs: [B, T] with gradient.
        old_logprobs: [B, T] of the policy that sampled, not read for demonstrations; None = this policy.
        response_mask: [B, T].
        rewards: [B], R of Eq. 7; not used for demonstrations.
        group: [B] whole numbers, the question's place in ``alpha`` and ``beta``.
        is_demonstration: [B] bool.
        alpha: [N], from `gate`; multiply a coefficient of the RL half into it.
        beta: [N], from `gate`; multiply a coefficient of the SFT half into it.
        row: of the RL half. The paper's text says Dr. GRPO; its Eq. 11 prints a standard deviation, which is
            ``hpt.ROWS["dr_grpo"].with_parameters(std="sample")``.
        rollouts_per_prompt: n; None = as many as every question that has rollouts here has.
        max_response_tokens: L; None = the longest response here.

    Returns:
        Scalar.

    Raises:
        ConfigError: as `upge_loss`; a question outside ``alpha``; a negative alpha or beta; no n where questions differ
            in their rollouts.

    Example:
        >>> import hpt, torch
        >>> response_mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1]])
        >>> logprobs = torch.full((3, 3), -0.5, requires_grad=True)
        >>> alpha, beta = hpt.gate([0, 1], n=2)  # question 0 learns from its demonstration, question 1 by RL
        >>> batch = {"rewards": [1, 0, 1], "group": [1, 1, 0], "is_demonstration": [False, False, True]}
        >>> hpt.hpt_loss(logprobs, None, response_mask, alpha=alpha, beta=beta, **batch).backward()
        >>> logprobs.grad
        tensor([[ 0.0000, -0.1250, -0.1250],
                [ 0.0000,  0.1250,  0.0000],
                [ 0.0000, -0.2500, -0.2500]])
    """
    import torch

    row, mask = _row(row), _mask("response_mask", response_mask)
    rows, lengths, reward = len(mask), mask.sum(1), _vector("rewards", rewards, len(mask))
    shown = _vector("is_demonstration", is_demonstration, rows) != 0
    weights = {"rollouts": _vector("alpha", alpha, least=0.0)}
    questions = len(weights["rollouts"])
    weights["demonstration"] = _vector("beta", beta, questions, least=0.0)
    question = _whole("group", group, rows, most=questions - 1)
    if normalization not in _NORMALIZATIONS:
        raise ConfigError("normalization", normalization, "one of " + ", ".join(_NORMALIZATIONS), "choose one of these")
    drawn = sorted(set(np.unique(question[~shown], return_counts=True)[1].tolist()))
    if rollouts_per_prompt is None and len(drawn) > 1:
        allowed = f"n: the questions here have {' and '.join(map(str, drawn))} rollouts"
        raise ConfigError("rollouts_per_prompt", None, allowed, "pass how many were drawn per question")
    loss = 0.0 * _logprob_tokens("logprobs", logprobs, mask).sum()  # of a batch in which nothing weighs anything
    for half, acting, half_row in (("rollouts", ~shown, row), ("demonstration", shown, ROWS["sft"])):
        place = np.flatnonzero(acting & (weights[half][question] > 0))
        if not len(place):
            continue
        index = torch.from_numpy(place).to(mask.device)
        counts = StepCounts(
            prompts=questions,
            rollouts_per_prompt=_positive("rollouts_per_prompt", rollouts_per_prompt, max(drawn, default=1)),
            max_response_tokens=_positive("max_response_tokens", max_response_tokens, int(lengths.max())),
            sequences=len(place),
            tokens=int(lengths[index].sum()),
        )
        rule = aggregation_rule(half_row, normalization, half)
        weighted = group_advantages(torch.from_numpy(reward[place]), question[place], half_row)
        old = None
        if old_logprobs is not None and half == "rollouts":  # nobody sampled a demonstration
            _tokens("old_logprobs", old_logprobs, mask)
            old = old_logprobs[index]
        loss = loss + upge_loss(
            replace(half_row, aggregation=rule),
            logprobs[index],
            old,
            weighted * torch.from_numpy(weights[half][question[place]]),
            mask[index],
            counts=counts,
        )
    return loss


def intervals(
    values: Tensor | ArrayLike, over: Literal["problems", "seeds"], *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the interval of a mean, over problems or over seeds: two questions, never mixed.

    Over problems: how far the score would move with other problems of the same kind, for these weights. Wilson where
    every value is 0 or 1, else the BCa bootstrap. Over seeds: Student's t, which alone can carry a claim about methods.

    Args:
        values: [problems], each a share of correct answers or a difference of two; or [seeds], in any unit.
        over: ``problems`` or ``seeds``.
        level: coverage.
        seed: of the bootstrap.

    Returns:
        `hpt.evaluation.intervals.Interval`: ``low``, ``high``, ``level``, ``kind``; nan where there is only one value.

    Raises:
        ConfigError: ``over`` is neither, ``level`` outside (0, 1), or values that are not finite and one-dimensional.

    Example:
        >>> import hpt
        >>> hpt.intervals([1, 1, 0, 1, 0, 1, 1, 1, 1, 1], over="problems").kind
        'Wilson over problems, fixed weights'
        >>> interval = hpt.intervals([41.0, 44.0, 42.5], over="seeds")
        >>> round(interval.low, 1), round(interval.high, 1)
        (38.8, 46.2)
    """
    from hpt.evaluation.intervals import bca_interval, seed_mean, wilson_interval

    given = _vector("values", values)
    if not 0 < level < 1:
        raise ConfigError("level", level, "a coverage between 0 and 1", "say 0.95 for 95 %")
    if over not in ("problems", "seeds"):
        raise ConfigError("over", over, "problems or seeds", "say which of the two the values are of")
    if over == "seeds":
        return seed_mean(given, level).interval
    if np.isin(given, (0.0, 1.0)).all():
        return wilson_interval(int(given.sum()), len(given), level)
    return bca_interval(given, level, generator=seed)


def verify(answer: str, gold: str, *, kind: Literal["math", "digits", "choice"] = "math", boxed: bool = True) -> bool:
    r"""Return whether a response is correct: R of Eq. 7.

    math-verify decides, in a worker process that is killed where an answer hangs it. The worker starts with the first
    call (a second) and stays. For many responses at once, each with its verdict: `hpt.rewards.workers.Verifier`.

    Args:
        answer: a response; the content of its last closed ``\boxed{...}`` is graded, and without one it is wrong.
        gold: the reference answer, boxed or bare.
        kind: the form asked for: any (``math``), digits alone (``digits``), a letter A-J (``choice``).
        boxed: False where ``answer`` is the bare answer.

    Returns:
        True if it is correct; False if it is wrong, holds no answer, or cannot be settled in five seconds, tried twice.

    Raises:
        ConfigError: ``kind`` is none of the three.
        HptError: the worker cannot be started.

    Example:
        >>> import hpt
        >>> hpt.verify(r"So it is \boxed{\frac{1}{2}}.", "0.5"), hpt.verify("So it is 0.5.", "0.5")
        (True, False)
        >>> hpt.verify("0.5", "1/2", boxed=False)
        True
    """
    from hpt.data.problems import Problem
    from hpt.rewards.workers import Verdict

    response = str(answer) if boxed else rf"\boxed{{{answer}}}"
    (grade,) = _verifier().grade([response], [Problem("", "", str(gold), answer_kind=kind)])
    return grade.verdict is Verdict.correct


def load_scores(folder: str | Path) -> pd.DataFrame:
    """Return the scores in a folder of records as a tidy table: a row per run and evaluation.

    Args:
        folder: a report, such as ``reports/mini``, or a folder of records.

    Returns:
        Columns ``run`` (its record folder's name), ``method``, ``base``, ``seed``, ``settings`` (those that move a
        number and differ from the method's defaults), ``benchmark``, ``problems``, ``samples`` (per problem), ``score``
        (avg@k: percent of the answers that are correct, a mean over problems).

    Raises:
        ConfigError: no records there.
        RecordFault: one of them is damaged, or of another version.

    Example:
        >>> import hpt
        >>> scores = hpt.load_scores("reports/mini")
        >>> chosen = scores[(scores.base == "strong") & (scores.settings == "") & (scores.benchmark == "graded-500")]
        >>> chosen[chosen.seed == 0].set_index("method").score.round(1)[["sft", "hpt"]].to_dict()
        {'sft': 61.6, 'hpt': 98.8}
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for run, about in _recorded_runs(folder):
        for benchmark, counts in run.evaluations.groupby("benchmark", sort=False):
            score = 100 * float((counts["correct"] / counts["samples"]).mean())
            rows.append((*about, benchmark, len(counts), int(counts["samples"].iloc[0]), score))
    return pd.DataFrame(rows, columns=[*_ABOUT_A_RUN, "benchmark", "problems", "samples", "score"])


def load_answers(folder: str | Path) -> pd.DataFrame:
    """Return the answers kept word for word in a folder of records: up to 24 per run and final evaluation.

    Args:
        folder: as for `load_scores`.

    Returns:
        Columns ``run``, ``method``, ``base``, ``seed``, ``settings`` as in `load_scores`; ``benchmark``,
        ``problem_id``, ``sample`` (its number), ``hash`` (the lowest of the evaluation were kept:
        `hpt.evaluation.evaluate.answer_hash`), ``verdict``, ``response_tokens``, ``text``. No rows of runs recorded
        before answers were kept.

    Raises:
        ConfigError: no records there.
        RecordFault: one of them is damaged, or of another version.

    Example:
        >>> import hpt
        >>> answers = hpt.load_answers("reports/mini")
        >>> answers[answers.benchmark == "applied"].groupby("method").text.first()  # doctest: +SKIP
    """
    import pandas as pd

    found = [run.answers.drop(columns="key").assign(**dict(zip(_ABOUT_A_RUN, about, strict=True)))
             for run, about in _recorded_runs(folder)]  # fmt: skip
    answers = pd.concat(found, ignore_index=True)
    return answers[[*_ABOUT_A_RUN, *answers.columns.difference(list(_ABOUT_A_RUN), sort=False)]]


def _recorded_runs(folder: str | Path) -> Iterator[tuple[RunRecords, tuple[str, str, str, int, str]]]:
    """Yield every run recorded in a folder with what `_ABOUT_A_RUN` names."""
    from hpt.runs.records import load_records, record_folders

    found = record_folders(Path(folder) / "records") or record_folders(Path(folder))
    if not found:
        remedy = "name one that `hpt runs export` wrote, such as reports/mini"
        raise ConfigError("folder", str(folder), "a report with records, or a folder of records", remedy)
    for run in map(load_records, found):
        yield run, (run.name, run.method, run.policy, run.seed, _changed_settings(run.config))


def train(
    method: str = "hpt",
    *,
    scale: str = "mini",
    recipe: str = "released",
    policy: str | Path = "weak",
    data: str | Path | None = None,
    validation: str | Path | Sequence[str | Path] = (),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    evaluations: str | Path | Sequence[str | Path] = (),
    runs_dir: str | Path = "runs",
) -> RunFolder:
    """Train one policy with one method, its base first where that is missing, and return the run.

    Algorithm 1 as ``hpt train`` runs it: DeepSpeed trains and vLLM samples, in another process. A finished run is
    found by its settings and not made again; one that was stopped continues.

    Args:
        method: of `hpt.methods.methods.METHODS`, or module:METHOD of a custom one.
        scale, recipe, seed: of the run; `hpt.config.scales` says what the first two bring along.
        policy: a base of the scale (weak, strong, llama) or a model folder (``./weak`` where it has a base's name).
        data: a public set, or a file or folder of questions; None = those of the scale. Of a file or folder without
            ``validation``, a tenth of the questions, chosen by their hash, is held out: never trained on, and the curve
            ``held-out`` (``settings={"validation.held_out": 0.0}`` trains on all and draws the scale's curves).
        validation: sets, files or folders of questions that the curves are drawn of; none = those of the scale.
        settings: dotted names to values, such as ``{"gate.count": 2}`` (`hpt.config.settings`).
        evaluations: sets, files or folders of questions that the final policy is evaluated on, ``mine.jsonl@8`` with
            eight answers to each.

    Returns:
        `hpt.runs.folder.RunFolder`: ``metrics`` (a data frame, one row per step, with the columns of
        `hpt.training.metrics.METRICS`), ``table("rollouts")`` (a row per step and question), ``model`` (folder of the
        final weights), ``config``.

    Raises:
        ConfigError: a setting, questions or a model that cannot be used; before any compute.
        HptError: the run failed; its message, and where its log is.

    Example:
        >>> import hpt
        >>> run = hpt.train("hpt", scale="tiny", settings={"gate.count": 1})  # doctest: +SKIP
        >>> run.metrics.plot(x="step", y="rollout/reward")  # doctest: +SKIP
    """
    from hpt.data.models import MODELS
    from hpt.data.public import DATASETS
    from hpt.runs.make import run_with_base
    from hpt.runs.resolve import base_config, build_config, check_no_names, warn_of_idle

    given = dict(settings or {})
    check_no_names(given)
    validation, evaluations = ([str(one)] if isinstance(one, str | Path) else [*map(str, one)]
                               for one in (validation, evaluations))  # fmt: skip
    short: dict[str, Any] = {"data.source": data and str(data), "validation.sets": validation}
    if policy not in {model.role for model in MODELS.values()} and Path(policy).is_dir():
        short["policy.path"], policy = str(Path(policy).resolve()), Path(policy).name
    for name, value in short.items():
        if value and name in given:
            raise ConfigError(name, given[name], f"one of two: {value} is asked for too", "leave one out")
        given |= {name: value} if value else {}
    names: dict[str, Any] = {"scale": scale, "policy": str(policy), "seed": seed}
    if method == "pretrain":
        if asked := given | ({} if recipe == "released" else {"recipe": recipe}):
            shown = ", ".join(f"{name}={value}" for name, value in asked.items())
            allowed, remedy = f"no {shown}: a base is made by its recipe", "leave it out, or name the method it is for"
            raise ConfigError("method", "pretrain", allowed, remedy)
        config = base_config(build_config("hpt", **names))
        if config.seed != seed:
            warn(f"seed {seed} makes no other base: at scale {scale} all seeds share one")
    else:
        if data is not None and str(data) not in ("graded", *DATASETS) and "validation.sets" not in given:
            given.setdefault("validation.held_out", HELD_OUT_SHARE)
        config = build_config(method, recipe=recipe, settings=given, **names)
        warn_of_idle(config, given)
    return run_with_base(config, Path(runs_dir), tuple(evaluations))


def _shape(values: Any) -> list[int]:
    return list(values.shape)


def _row(row: Row | str) -> Row:
    return row if isinstance(row, Row) else resolve(ROWS, str(row), "row")


def _positive(name: str, value: int | None, otherwise: int | None = None) -> int:
    """Return a whole number of at least 1; ``otherwise`` for None, where that may be left out."""
    value = otherwise if value is None else value
    if not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(name, value, "a whole number of at least 1", "correct the value")
    return int(value)


def _mask(name: str, mask: Tensor | ArrayLike) -> Tensor:
    """Return a mask as bool [B, T] with something in every row."""
    import torch

    mask = torch.as_tensor(mask)
    if mask.dim() != 2:
        remedy = "pad to one length and stack; of a single trajectory, pass mask[None]"
        raise ConfigError(name, f"a tensor of shape {_shape(mask)}", "[B, T], a trajectory per row", remedy)
    chosen = _ones(name, mask)
    if not bool(chosen.any(1).all()):
        empty = int((~chosen.any(1)).nonzero()[0])
        raise ConfigError(name, f"nothing in row {empty}", "a token in every row", "leave the row out")
    return chosen


def _ones(name: str, mask: Tensor) -> Tensor:
    chosen = mask != 0
    if not bool((mask == chosen).all()):
        found = f"values from {mask.min():g} to {mask.max():g}"
        raise ConfigError(name, found, "True and False, or 1 and 0", "pass where the tokens are, not weights")
    return chosen


def _tokens(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """Return the values at the mask's tokens, flat, row after row."""
    if values.shape != mask.shape:
        allowed = f"the shape of response_mask, {_shape(mask)}"
        raise ConfigError(name, f"a tensor of shape {_shape(values)}", allowed, "pad it as input_ids are")
    return values[mask]


def _logprob_tokens(name: str, values: Tensor, mask: Tensor) -> Tensor:
    flat = _tokens(name, values, mask)
    if not bool((flat <= _LARGEST_LOGPROB).all() & flat.isfinite().all()):
        found = f"values from {flat.min():g} to {flat.max():g}"
        remedy = "take the logarithm of probabilities; look for logits that are not finite"
        raise ConfigError(name, found, "log-probabilities: finite and at most 0", remedy)
    return flat


def _streams(row: Row, logprobs: Tensor, old: Tensor | None, entropies: Tensor | None, mask: Tensor) -> TokenStreams:
    if entropies is None and row.trajectory_coefficient != "one":
        allowed = f"[B, T]: {row.name} weighs a trajectory by its entropy"
        raise ConfigError("entropies", None, allowed, "call upge_loss with what token_logprobs returns")
    flat = _logprob_tokens("logprobs", logprobs, mask)
    old_flat = flat.detach() if old is None else _logprob_tokens("old_logprobs", old, mask).detach().to(flat)
    # a part that reads entropies without any gets nan, and the loss shows it
    entropy = flat.new_full(flat.shape, np.nan) if entropies is None else _tokens("entropies", entropies, mask)
    return TokenStreams(flat, entropy, old_flat, mask.nonzero()[:, 0], len(mask))


def _padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T] with the flat values at the mask's tokens and 0 elsewhere; the gradient goes through."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


def _vector(
    name: str, values: Tensor | ArrayLike, size: int | None = None, least: float = -np.inf, most: float = np.inf
) -> np.ndarray:
    """Return finite numbers as a one-dimensional float64 array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()  # pyright: ignore
        values = values.double() if values.is_floating_point() else values  # NumPy has no bfloat16
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in "biuf" or len(given) != (size or max(1, len(given))):
        allowed = f"numbers of one dimension, {size or 'at least one'} of them"
        raise ConfigError(name, f"shape {list(given.shape)}, {given.dtype}", allowed, "pass one number for each")
    wrong = given[~(np.isfinite(given) & (given >= least) & (given <= most))]
    if len(wrong):
        range_of = f" of at least {least:g}" if most == np.inf else f" from {least:g} to {most:g}"
        allowed = "finite numbers" + range_of * (least > -np.inf)
        raise ConfigError(name, wrong[0], allowed, "correct the value")
    return given.astype(np.float64)


def _whole(name: str, values: Tensor | ArrayLike, size: int | None = None, most: float = np.inf) -> np.ndarray:
    given = _vector(name, values, size, 0, most)
    if len(wrong := given[given != np.round(given)]):
        raise ConfigError(name, wrong[0], "whole numbers", "pass counts or places, not shares")
    return given.astype(np.int64)


def _flat_logprobs(
    model: nn.Module, input_ids: Tensor, mask: Tensor, temperature: float, attends: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (logprobs, entropies) of the mask's tokens, flat: the model's body, then the trainer's chunked head."""
    from inspect import signature

    from torch import nn

    from hpt.training.policy import ChunkedHead

    body, head = getattr(model, "base_model", None), getattr(model, "get_output_embeddings", lambda: None)()
    if body is None or body is model or not isinstance(head, nn.Linear):
        remedy = "load it with AutoModelForCausalLM, and pass what a wrapper holds"
        raise ConfigError("model", type(model).__name__, "a causal language model with a linear head", remedy)
    given: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if attends is not None:
        given["attention_mask"] = attends.long()
        if "position_ids" in signature(body.forward).parameters:  # counted as `generate` counts them
            given["position_ids"] = (attends.cumsum(1) - 1).clamp(min=0)
    row, column = mask.nonzero(as_tuple=True)
    hidden = body(**given).last_hidden_state[row, column - 1]
    return ChunkedHead(head, model.config)(hidden, input_ids[row, column], temperature)


def _compare_with_logits(model: nn.Module, tokens: Tensor) -> None:
    """Refuse a model whose logits say something else: caps and scales that only its ``forward`` applies."""
    import torch

    probe = tokens[None, :32]
    mask = torch.ones_like(probe, dtype=torch.bool).index_fill(1, probe.new_zeros(1), False)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # dropout would differ between the two passes
    try:
        with torch.no_grad():
            ours, logits = _flat_logprobs(model, probe, mask, 1.0, None)[0], model(input_ids=probe).logits[0, :-1]
    finally:
        for module, training in modes:
            module.training = training
    theirs = logits.to(ours.dtype).log_softmax(1).gather(1, probe[0, 1:, None])[:, 0]
    gap = float((ours - theirs).abs().max())
    if not gap <= 1e-4 + 4 * torch.finfo(logits.dtype).eps * float(logits.abs().max()):  # rounding of its logits
        found = f"{type(model).__name__}, whose log-probs differ by {gap:.2g} nats"
        raise ConfigError("model", found, "one whose logits are its last hidden states times its head", "use another")


@cache
def _verifier() -> Verifier:
    from hpt.rewards.workers import Verifier

    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


def _changed_settings(config: RunConfig) -> str:
    """Return the settings that move a number and differ from the method's defaults at this scale, base and seed."""
    from hpt.config.run_config import MOVES_NO_NUMBER, flat
    from hpt.runs.resolve import FILLED_IN, build_config

    if config.method == "pretrain":  # made by a recipe
        return ""
    names = {name: getattr(config, name) for name in ("scale", "recipe", "seed")}
    default = flat(build_config(config.method, policy=config.policy.name, **names).model_dump())
    left_out = {**dict.fromkeys(MOVES_NO_NUMBER | {"own_modules", "over_stages"}, True), "data": {"sha256"},
                **FILLED_IN}  # fmt: skip
    changed = flat(config.model_dump(exclude=left_out))
    return ", ".join(f"{name}={value}" for name, value in changed.items() if value != default[name])

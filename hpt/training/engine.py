"""DeepSpeed around the policy: forward, backward, one guarded optimiser step, at any ZeRO stage; the only engine.

Scaling, once. The loss of `hpt.upge` is already normalised over the whole optimiser step and all ranks, so the gradient
wanted is the plain *sum* over micro-batches and ranks. DeepSpeed adds micro-batches up but *averages* ranks; `backward`
therefore multiplies by the number of ranks. Nothing is divided by the number of micro-batches: gradient
accumulation is 1 and ``managed_gradient_accumulation`` is off, so that `step` alone ends an accumulation.

`Updater` takes an optimiser step: from weighted trajectories to a gradient that depends on nothing but them. It trains
bases, runs methods and is measured by the invariance tests: there is one path to a gradient.

`sft_rl_gradients` asks whether SFT and RL pull the policy in opposite directions (Section 2: they "are not in conflict,
and they can be optimized jointly within a single loss"). It changes neither weights nor accumulated gradients.
"""

import math
import os
import pickle
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.methods.mixture import Assembled, WeightedTrajectory
from hpt.support.errors import HptError, RecordFault
from hpt.support.process import environment
from hpt.training.policy import (
    MicroBatch,
    PolicyModule,
    checkpoint_activations,
    collate,
    forward_micro_batch,
    split_into_micro_batches,
    split_over_ranks,
    turn_off_dropout,
    zero_weight_filler,
)
from hpt.training.ranks import WAIT, Ranks, free_port, launched, launched_rank, launched_ranks, start_watch
from hpt.training.shards import load_shards, save_shards
from hpt.upge.estimator import Row, Term, upge_loss
from hpt.upge.regularisers import entropy_bonus, kl_to_reference
from hpt.upge.row import TokenStreams


@dataclass(frozen=True)
class StepOutcome:
    """How one optimiser step ended: global gradient norm before clipping, and whether the update was applied."""

    gradient_norm: float
    applied: bool


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that leaves everything as it was when the gradient norm is not finite or above a bound.

    DeepSpeed calls this optimiser after it has summed the gradients over ranks and knows their global norm, so asking
    here, inside its step, is the one place where the decision is global at every ZeRO stage and costs nothing.
    Setting the learning rate to zero instead would still move Adam's moments.
    """

    def __init__(self, parameters: Any, settings: OptimizerSettings) -> None:
        betas = (settings.adam_beta1, settings.adam_beta2)
        super().__init__(
            parameters, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay, foreach=True,  # fused: 0.6 ms less a mini update, and other bits
        )  # fmt: skip
        self.may_step: Callable[[], bool] = lambda: True

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().step(closure) if self.may_step() else None


def warmed_up(settings: OptimizerSettings, done: int) -> float:
    """Return the learning rate after ``done`` steps: constant, after a warm-up that starts above zero."""
    return settings.learning_rate * min(1.0, (done + 1) / max(1, settings.warmup_steps))


class PolicyEngine(Ranks):
    """The policy under DeepSpeed: a Hugging Face causal language model, on CPU, whose dropout is turned off.

    ``make_optimizer`` builds another optimiser than `GuardedAdamW`: base training uses Muon.

    Raises:
        HptError: DeepSpeed cannot be imported.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: EngineSettings,
        optimizer: OptimizerSettings,
        dtype: str = "float32",
        make_optimizer: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        deepspeed = start_process_group()
        super().__init__(deepspeed.comm.get_rank(), deepspeed.comm.get_world_size())
        self.settings, self.optimizer_settings = engine, optimizer
        if engine.gradient_checkpointing:
            checkpoint_activations(model)
        if (dropout := turn_off_dropout(model)) and self.rank == 0:
            names = ", ".join(f"{name} = {value:g}" for name, value in dropout.items())
            print(f"dropout of the model is not applied ({names}): sampler and ratio know none", file=sys.stderr)
        policy = PolicyModule(model)
        inner = make_optimizer(policy) if make_optimizer else GuardedAdamW(policy.parameters(), optimizer)
        self._inner = inner
        self._engine: Any
        with _launched():
            self._engine, *_ = deepspeed.initialize(
                model=policy, optimizer=inner, config=_deepspeed_config(engine, optimizer, dtype)
            )
        inner.may_step = self._guard
        self.device = next(policy.parameters()).device

    @property
    def module(self) -> PolicyModule:
        return self._engine.module

    @property
    def layout(self) -> str:
        settings = self.settings
        shared = settings.layout == "padded" and settings.share_prompts and self.module.shares_prompts
        return "shared" if shared else settings.layout

    def __call__(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Run the policy; see `PolicyModule.forward`."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-batch's part of the step's loss."""
        self._engine.backward(loss * self.ranks)

    def step(self, learning_rate: float) -> StepOutcome:
        """Sum over ranks, clip, update (or skip) and clear the gradients."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        self._outcome = StepOutcome(float("nan"), False)
        self._engine.step()  # which asks `_guard`
        return self._outcome

    def _guard(self) -> bool:
        settings = self.optimizer_settings
        if self.settings.zero_stage == 0:
            # no ZeRO optimiser around ours: the gradients are summed by now, the norm and the clip are ours to do
            bound = settings.gradient_clip or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), bound))
        else:
            norm = float(self._engine.optimizer._global_grad_norm)
        is_large = settings.skip_above_norm and norm > settings.skip_above_norm
        self._outcome = StepOutcome(norm, math.isfinite(norm) and not is_large)
        return self._outcome.applied

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor) one at a time; at ZeRO-3 each is gathered while it is in use, then let go."""
        import deepspeed

        partitioned = self.settings.zero_stage == 3
        for name, parameter in self.module.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
                yield name, parameter.detach()

    def save_model(self, folder: Path) -> None:
        """Write the weights in Hugging Face format (rank 0 writes; at ZeRO-3 all ranks must call)."""
        state: dict[str, Tensor] = {}
        for name, weight in self.named_weights():
            if self.rank == 0:  # the others only take part in gathering: a copy each would fill a node's memory
                state[name] = weight.to("cpu", copy=True).contiguous()
        if self.rank == 0:
            self.module.model.save_pretrained(folder, state_dict=state)  # pyright: ignore[reportCallIssue]

    def save_state(self, folder: Path) -> list[Path]:
        """Write weights, optimiser and everything the engine needs to go on, into ``folder/deepspeed``.

        Every rank writes a part, and returns its files. Whoever reads it may have another number of ranks: see
        `hpt.training.shards`; without ZeRO every rank has everything, and rank 0 writes it.
        """
        place = folder / "deepspeed"
        if self.settings.zero_stage:
            return [save_shards(self.module, self._inner, self._engine.optimizer, place, self.rank, self.ranks)]
        self._engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)
        return [path for path in place.rglob("*") if path.is_file()] if self.rank == 0 else []

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote.

        Raises:
            RecordFault: nothing there, or not readable.
        """
        if self.settings.zero_stage:
            zero = self._engine.optimizer
            load_shards(self.module, self._inner, zero, folder / "deepspeed", self.rank, self.ranks)
            return
        try:
            # tensors and plain settings alone, whatever DeepSpeed asks for: a run folder may come from somebody else
            with environment({"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}):
                path, _ = self._engine.load_checkpoint(str(folder), tag="deepspeed")
        except pickle.UnpicklingError as error:
            message = f"{folder} holds more than tensors and settings, which is never read ({str(error)[:200]})"
            raise RecordFault(f"{message}; remove this checkpoint and the one before is used") from error
        if path is None:
            raise RecordFault(f"{folder}: no DeepSpeed state; remove this checkpoint and the one before is used")

    def reset_optimizer(self) -> None:
        """Set the optimiser's moments and count of updates to zero, as a new one's are; weights and masters stay.

        In place: DeepSpeed holds views of these tensors.
        """
        for state in self._inner.state.values():
            for value in state.values():
                value.zero_()

    def close(self) -> None:
        """Let go of the engine's buffers (another engine may be built in the same process)."""
        self._engine.destroy()


def start_process_group() -> Any:
    """Import DeepSpeed and join the process group: the launcher's when there is one, else a group of one.

    Raises:
        HptError: DeepSpeed cannot be imported.
    """
    if torch.cuda.is_available():  # gpu only
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # before anything is put on device 0 by all ranks
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    try:
        import deepspeed
    except ImportError as error:
        message = f"DeepSpeed cannot be imported ({error}); run `hpt doctor`, it says what to install"
        raise HptError(message) from error
    # DeepSpeed would compile a shared-memory all-reduce for CPU ranks at first use, behind a lock file that a killed
    # process leaves for ever: every later run would wait for it. gloo does the same sums without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        start_watch()
        with _launched():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=WAIT)
    return deepspeed


def join() -> Ranks:
    """Return this process among its ranks, after joining their process group where there are several."""
    if launched_ranks() == 1:
        return Ranks()
    start_process_group()
    return Ranks(launched_rank(), launched_ranks())


@contextmanager
def _launched() -> Generator[None]:
    """Set what a launcher would have set, where there was none, and take it back.

    Left in the environment it would be inherited by runs started from here, which would all take themselves for rank 0
    of this process's group and fail on its port.
    """
    if launched():
        yield
        return
    # a free port, so that runs side by side do not meet
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ["LOCAL_RANK"] = "0"  # this one stays: ZeRO-3 reads it later too, and alone it means nothing
    with environment(alone):
        yield


def _deepspeed_config(engine: EngineSettings, optimizer: OptimizerSettings, dtype: str) -> dict[str, Any]:
    buckets = 50_000_000
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.gradient_clip if engine.zero_stage else 0.0,  # stage 0: see the guard
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": {
            "stage": engine.zero_stage,
            "reduce_bucket_size": buckets,
            "allgather_bucket_size": buckets,
            "overlap_comm": False,
        },
        # in the 8 bits of bfloat16 a sum of many micro-batches stops growing, and depends on how they were split
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


#: Sums of a metric over tokens or trajectories, to be added over micro-batches and ranks before anything is divided.
Sums = dict[str, float]
#: Of one response: the largest |difference of log-probs|, their sum, and tokens.
Gap = tuple[float, float, int]


def micro_batch_loss(
    batch: MicroBatch, logprobs: Tensor, entropies: Tensor, rows: Sequence[Row], reference: Tensor | None = None
) -> tuple[Tensor, Sums]:
    """Return this micro-batch's part of the step's loss (Eq. 13) and the sums its metrics are made of.

    All are [T]; ``reference`` are log-probs of the frozen initial policy, when a KL term is on; a row per component.
    """
    streams = TokenStreams(logprobs, entropies, batch.old_logprobs, batch.trajectory, len(batch.rewards))
    components = [
        Term(rows[index], part.advantages, part.scales, part.keep, batch.rewards, str(index))
        for index, part in batch.parts.items()
    ]
    result = upge_loss(streams, components)
    loss = result.loss
    if batch.has_bonus:  # else the entropy's gradient, as dear as that of the log-probs, is not computed
        loss = loss - entropy_bonus(entropies, batch.entropy_scales)
    if reference is not None:
        loss = loss + kl_to_reference(logprobs, reference, batch.kl_scales)
    sums = {name: float(value) for name, value in result.metrics.items()}
    sums["forwarded_tokens"] = float(batch.input_ids.numel())
    with torch.no_grad():
        # a zero-weight filler of another rank's work is a "demonstration" of one token; it must not be counted
        for kind, wanted in (("rollout", False), ("demonstration", True)):
            counted = [m.trajectory.is_demonstration is wanted and not m.is_zero for m in batch.members]
            chosen = torch.tensor(counted, device=batch.trajectory.device)[batch.trajectory]
            sums[f"{kind}_tokens"] = float(chosen.sum())
            sums[f"{kind}_nll"] = float(-logprobs[chosen].sum())
            sums[f"{kind}_entropy"] = float(entropies[chosen].sum())
        sums["loss"] = float(loss)
    return loss, sums


class Updater:
    """Runs optimiser steps on a `PolicyEngine`, with a row for every component of the method at work.

    Log-probs are taken at the temperature of sampling; ``reference``: frozen initial policy for a KL term, or None.
    """

    def __init__(
        self, engine: PolicyEngine, rows: Sequence[Row], temperature: float = 1.0, reference: nn.Module | None = None
    ) -> None:
        self.engine, self.rows, self.temperature, self.reference = engine, list(rows), temperature, reference
        self.dtype = torch.float32

    def micro_batches(self, items: Sequence[WeightedTrajectory]) -> list[MicroBatch]:
        """Return this rank's micro-batches; every rank gets the same number, filled up with weightless ones."""
        budget, layout = self.engine.settings.micro_batch_tokens, self.engine.layout
        shares = [
            split_into_micro_batches(share, budget, layout)
            for share in split_over_ranks(items, self.engine.ranks, layout)
        ]
        most = max(1, *(len(share) for share in shares)) if self.engine.ranks > 1 else len(shares[0])
        own = shares[self.engine.rank]
        own = own + [[zero_weight_filler()]] * (most - len(own))
        has_bonus = any(item.entropy_scale for item in items)  # of the step, not of a share: see `MicroBatch`
        return [replace(collate(group, len(self.rows), layout, self.dtype), has_bonus=has_bonus) for group in own]

    def forward(self, batch: MicroBatch, of: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]) of the policy, or of the model ``of``."""
        return forward_micro_batch(of or self.engine, batch, self.engine.layout, self.temperature)

    def update(
        self,
        items: Sequence[WeightedTrajectory],
        learning_rate: float,
        see_gap: Callable[[list[Gap]], None] | None = None,
    ) -> tuple[StepOutcome | None, Sums]:
        """Take one optimiser step on the whole step's trajectories (the same list on every rank).

        ``see_gap`` is called before the optimiser steps with the gaps between log-probs and old log-probs of all ranks'
        rollouts; what it raises keeps the step from being taken.

        Returns:
            How the step ended (None: nothing weighed anything, no step was taken) and this rank's metric sums.
        """
        totals: Sums = {}
        if not items:
            return None, totals
        gaps: list[Gap] = []
        for batch in self.micro_batches(items):
            sums, own = self.accumulate(batch)
            gaps += own
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        if see_gap is not None:
            see_gap(self.engine.gather(gaps))
        return self.engine.step(learning_rate), totals

    def accumulate(self, batch: MicroBatch) -> tuple[Sums, list[Gap]]:
        """Run one forward and backward, adding to the gradient; returns metric sums, and the gaps of its rollouts."""
        batch = move(batch, self.engine.device)
        logprobs, entropies = self.forward(batch)
        loss, sums = micro_batch_loss(batch, logprobs, entropies, self.rows, self.reference_logprobs(batch))
        self.engine.backward(loss)
        gaps = [
            gap_of(own, member.trajectory.old_logprobs)
            for member, own in zip(batch.members, by_trajectory(batch, logprobs.detach()), strict=True)
            if not member.trajectory.is_demonstration
        ]
        return sums, gaps

    @torch.no_grad()
    def reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        """Return the frozen initial policy's log-probs [T], or None without a KL term."""
        return None if self.reference is None else self.forward(batch, self.reference)[0]

    @torch.no_grad()
    def logprobs(self, items: Sequence[WeightedTrajectory], of: nn.Module | None = None) -> dict[int, Any]:
        """Return log-probs [len] of each trajectory, by ``id(trajectory)``, of the policy or the model ``of``.

        Every rank computes a share of the items, which are the same on all; their weights do not matter.
        """
        place = {id(item.trajectory): index for index, item in enumerate(items)}
        found: list[tuple[int, Any]] = []
        for micro_batch in self.micro_batches(items) if items else []:
            batch = move(micro_batch, self.engine.device)
            values = self.forward(batch, of)[0]
            for member, part in zip(batch.members, by_trajectory(batch, values), strict=True):
                if (index := place.get(id(member.trajectory))) is not None:  # else it only fills up another rank's work
                    found.append((index, part))
        return {id(items[index].trajectory): values for index, values in self.engine.gather(found)}


def by_trajectory(batch: MicroBatch, values: Tensor) -> list[np.ndarray]:
    """Return a micro-batch's values [T] as one array [len] per trajectory, in order."""
    ends = np.cumsum([member.trajectory.length for member in batch.members])[:-1]
    return np.split(values.float().cpu().numpy(), ends)


def move(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Move a micro-batch's tensors to a device, in place."""
    for holder in (batch, *batch.parts.values()):
        for name, value in vars(holder).items():
            if isinstance(value, Tensor):
                setattr(holder, name, value.to(device, non_blocking=True))
    return batch


def sums_over_ranks(engine: PolicyEngine, own: Sums) -> Sums:
    """Return the sums of an update over all ranks, of which each trained its share; the same on every rank."""
    gathered = engine.gather([own])
    return {name: sum(part.get(name, 0.0) for part in gathered) for part in gathered for name in part}


def gap_of(logprobs: np.ndarray, others: np.ndarray) -> Gap:
    """Return (largest, sum, tokens) of |log-prob - other log-prob| over the tokens of one response [len].

    Example:
        >>> gap_of(np.array([-1.0, -2.0]), np.array([-1.5, -2.0]))
        (0.5, 0.5, 2)
    """
    gaps = np.abs(logprobs - others)
    return float(gaps.max()), float(gaps.sum()), len(gaps)


def sft_rl_gradients(updater: Updater, assembled: Assembled) -> dict[str, float]:
    """Return the norms of the gradients on the demonstrations and on the rollouts of a whole step, and their cosine.

    The two terms of Eq. 13: which of them drives the step, and whether they pull apart. Both are taken at the weights
    before the step's first update, over all its updates, with the weights they are trained with; the entropy bonus and
    a KL term belong to neither and are left out.

    Norms are 0 where there is nothing of that kind to learn from, and then there is no cosine. Every rank must hold
    whole parameters: ZeRO stage 0 to 2.
    """
    items = [
        replace(item, entropy_scale=0.0, kl_scale=0.0)
        for update in assembled.updates
        for item in update
        if not all(part.is_zero for part in item.parts)
    ]
    sft = step_gradient(updater, [item for item in items if item.trajectory.is_demonstration])
    rl = step_gradient(updater, [item for item in items if not item.trajectory.is_demonstration])
    sft_norm, rl_norm = float(sft.norm()), float(rl.norm())
    found = {"gradient/sft_norm": sft_norm, "gradient/rl_norm": rl_norm}
    if sft_norm * rl_norm > 0:
        found["gradient/sft_rl_cosine"] = float(sft @ rl) / (sft_norm * rl_norm)
    return found


def step_gradient(updater: Updater, items: list[WeightedTrajectory]) -> torch.Tensor:
    """Return the gradient of the loss of some trajectories, float64 [parameters], summed over micro-batches and ranks.

    Not through the engine's backward: that would add to the gradient the optimiser is about to use.
    """
    engine = updater.engine
    parameters = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64, device=engine.device)
    for batch in updater.micro_batches(items):
        batch = move(batch, engine.device)
        loss, _ = micro_batch_loss(batch, *updater.forward(batch, engine.module), updater.rows)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        total += torch.cat([gradient.flatten().double() for gradient in gradients])
    if engine.ranks > 1:
        torch.distributed.all_reduce(total)
    return total

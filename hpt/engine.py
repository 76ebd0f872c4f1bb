"""DeepSpeed around the policy: forward, backward, one guarded optimiser step, at any ZeRO stage; the only engine.

Scaling, once. The loss of `hpt.upge` is already normalised over the whole optimiser step and all ranks, so the gradient
wanted is the plain *sum* over micro-batches and ranks. DeepSpeed adds micro-batches up but *averages* ranks; `backward`
therefore multiplies by the number of ranks. Nothing is divided by the number of micro-batches: gradient
accumulation is 1 and ``managed_gradient_accumulation`` is off, so that `step` alone ends an accumulation.
"""

import os
import pickle
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt.errors import HptError
from hpt.policy import PolicyModule, checkpoint_activations, turn_off_dropout
from hpt.ranks import WAIT, Ranks, launched, launched_rank, launched_ranks, start_watch
from hpt.settings import EngineSettings, OptimizerSettings
from hpt.shards import load_shards, save_shards


@dataclass(frozen=True)
class StepOutcome:
    """What became of one optimiser step: global gradient norm before clipping, and whether the update was applied."""

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
            weight_decay=settings.weight_decay, foreach=True,
        )  # fmt: skip
        self.may_step: Callable[[], bool] = lambda: True

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the parameters, unless the guard says no."""
        return super().step(closure) if self.may_step() else None


class PolicyEngine(Ranks):
    """The policy under DeepSpeed.

    Args:
        model: Hugging Face causal language model, on CPU; dropout it may have is turned off.
        engine: ZeRO stage and the like.
        optimizer: AdamW settings, clip and skip rule.
        dtype: ``float32`` or ``bfloat16``.
        make_optimizer: builds another optimiser (base training uses Muon); None = `GuardedAdamW`.

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
        self._norm = 0.0
        self._applied = True
        inner.may_step = self._guard
        self.device = next(policy.parameters()).device

    @property
    def module(self) -> PolicyModule:
        """The policy inside the engine."""
        return self._engine.module

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Run the policy; see `PolicyModule.forward`."""
        return self._engine(*inputs)

    __call__ = forward

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-batch's part of the step's loss."""
        self._engine.backward(loss * self.ranks)

    def step(self, learning_rate: float) -> StepOutcome:
        """Sum over ranks, clip, update (or skip) and clear the gradients."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        self._norm, self._applied = float("nan"), False
        self._engine.step()
        return StepOutcome(self._norm, self._applied)

    def _guard(self) -> bool:
        settings = self.optimizer_settings
        if self.settings.zero_stage == 0:
            # no ZeRO optimiser around ours: the gradients are summed by now, the norm and the clip are ours to do
            bound = settings.gradient_clip or float("inf")
            self._norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), bound))
        else:
            self._norm = float(self._engine.optimizer._global_grad_norm)
        finite = self._norm == self._norm and self._norm not in (float("inf"), float("-inf"))
        self._applied = finite and not (settings.skip_above_norm and self._norm > settings.skip_above_norm)
        return self._applied

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor) one at a time; at ZeRO-3 each is gathered while it is looked at, then let go."""
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

    def save_state(self, folder: Path) -> None:
        """Write weights, optimiser and everything the engine needs to go on, into ``folder/deepspeed``.

        Every rank writes a part. Whoever reads it may have another number of ranks: see `hpt.shards`; without ZeRO
        every rank has everything.
        """
        if self.settings.zero_stage:
            zero = self._engine.optimizer
            save_shards(self.module, self._inner, zero, folder / "deepspeed", self.rank, self.ranks)
        else:
            self._engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote.

        Raises:
            RecordFault: nothing there, or not readable.
        """
        from hpt.errors import RecordFault

        if self.settings.zero_stage:
            load_shards(self.module, self._inner, self._engine.optimizer, folder / "deepspeed", self.rank)
            return
        try:
            with _without_pickles():
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


@contextmanager
def _without_pickles() -> Generator[None]:
    """Have ``torch.load`` read tensors and plain settings alone, also where DeepSpeed asks it for anything.

    A run folder may have come from somebody else, and its manifest says only that it came whole.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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
        with _launched():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=WAIT)
        start_watch()
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
    with socket.socket() as probe:  # a free port, so that runs side by side do not meet
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone, LOCAL_RANK="0")  # this one stays: ZeRO-3 reads it later too, and alone it means nothing
    try:
        yield
    finally:
        for name in alone:
            os.environ.pop(name, None)


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

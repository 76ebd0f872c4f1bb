"""The state of a run under ZeRO in whole parameters, so that it can go on with another number of ranks.

DeepSpeed's own checkpoints hold what each rank happened to keep and can be read by the same number of ranks alone. Here
every parameter is gathered for a moment and written, with its optimiser state, by the rank whose turn it is: as many
files as ranks, no rank ever holds more than one parameter besides its share of the file, and nothing in a file depends
on how many ranks wrote it. On the way back a rank reads its own files alone and hands every parameter to the others.
All of it is 32-bit, also where the model computes in bfloat16, so that going on with the same number of ranks changes
no bit.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt.support.errors import RecordFault

_WEIGHT = "weight"


def save_shards(module: nn.Module, optimizer: Any, zero_optimizer: Any, folder: Path, rank: int, ranks: int) -> Path:
    """Write this rank's share of weights and optimiser state, and return its file; all ranks call it.

    ``module`` is under ZeRO 1, 2 or 3, ``optimizer`` the one inside DeepSpeed's ``zero_optimizer``.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    from safetensors.torch import save_file

    own: dict[str, Tensor] = {}
    state = next(iter(optimizer.state.values()), {})  # empty before the first step
    moments = sorted(name for name, value in state.items() if torch.is_tensor(value) and value.ndim > 0)
    if not _is_partitioned(module):  # DeepSpeed looked for the moments once, after an update that may have been skipped
        zero_optimizer._hp_optimizer_states_linked = False
        zero_optimizer._lazy_init_hp_params_optimizer_state()
    for index, (name, parameter) in enumerate(module.named_parameters()):
        for kind in (_WEIGHT, *moments):
            whole = (
                safe_get_full_fp32_param(parameter)
                if kind == _WEIGHT
                else safe_get_full_optimizer_state(parameter, kind)
            )
            assert whole is not None
            if index % ranks == rank:
                own[f"{kind}:{name}"] = whole.detach().to("cpu", copy=True).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"shard-{rank:03d}-of-{ranks:03d}.safetensors"
    updates = float(state.get("step", 0.0))  # for the bias correction
    save_file(own, file, metadata={"updates": repr(updates)})
    return file


def load_shards(module: nn.Module, optimizer: Any, zero_optimizer: Any, folder: Path, rank: int, ranks: int) -> None:
    """Read what `save_shards` wrote on any number of ranks; all ranks call it.

    Raises:
        RecordFault: no files, or some of them missing.
    """
    from deepspeed import utils, zero
    from safetensors import safe_open

    files = sorted(folder.glob("shard-*-of-*.safetensors"))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise RecordFault(f"{folder}: {len(files)} shards, not all of them; remove this checkpoint and the one before "
                          "is used")  # fmt: skip
    first = safe_open(files[0], "pt")  # its header alone, unless it is this rank's
    moments = sorted({key.partition(":")[0] for key in first.keys()} - {_WEIGHT})  # noqa: SIM118, it is no mapping
    own_files = {number: safe_open(file, "pt") for number, file in enumerate(files) if number % ranks == rank}
    partitioned = _is_partitioned(module)
    # what the optimiser works on: flat 32-bit tensors, a part of each on every rank; at ZeRO-3 only within a step
    groups = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    flat = zero_optimizer.fp32_partitioned_groups_flat if partitioned else groups
    if moments:  # the state after so many updates, with zeros for what is filled in next
        updates = float(first.metadata()["updates"])
        for tensor in flat:
            optimizer.state[tensor] = {name: torch.zeros_like(tensor) for name in moments}
            optimizer.state[tensor]["step"] = torch.tensor(updates)
    if not partitioned:
        zero_optimizer._lazy_init_hp_params_optimizer_state()
    for index, (name, parameter) in enumerate(module.named_parameters()):
        number = index % len(files)  # of its file, as it was written
        values = {
            kind: _from(number % ranks, own_files.get(number), f"{kind}:{name}", parameter, ranks)
            for kind in (_WEIGHT, *moments)
        }
        for kind, whole in values.items():
            if partitioned:
                part = _partition(whole, parameter, rank)
                if kind == _WEIGHT:
                    utils.safe_set_local_fp32_param(parameter, part)
                else:
                    utils.safe_set_local_optimizer_state(parameter, part, kind)
            elif kind == _WEIGHT:
                utils.safe_set_full_fp32_param(parameter, whole)
            else:
                utils.safe_set_full_optimizer_state(parameter, whole, kind)
        # what computes, in bfloat16 perhaps, is another copy than the 32-bit one
        with zero.GatheredParameters([parameter], modifier_rank=0, enabled=partitioned):
            if rank == 0 or not partitioned:
                parameter.data.copy_(values[_WEIGHT])


def _from(reader: int, file: Any, key: str, parameter: Any, ranks: int) -> Tensor:
    """A whole tensor that rank ``reader`` reads for all, ``file`` being open there alone."""
    if ranks == 1:
        return file.get_tensor(key)
    # NCCL moves what lies on a GPU; at ZeRO-3 the parameter itself is a part
    shape, device = getattr(parameter, "ds_shape", parameter.shape), parameter.device
    whole = torch.empty(shape, device=device) if file is None else file.get_tensor(key).to(device)
    torch.distributed.broadcast(whole, reader)
    return whole.cpu()


def _is_partitioned(module: nn.Module) -> bool:
    """Whether it is under ZeRO-3."""
    return all(hasattr(parameter, "ds_tensor") for parameter in module.parameters())


def _partition(whole: Tensor, parameter: Any, rank: int) -> Tensor:
    """This rank's part of a parameter; the last one is padded with zeros."""
    size = parameter.ds_tensor.numel()
    flat = whole.flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(flat, (0, size - flat.numel()))

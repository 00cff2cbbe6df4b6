"""DeepSpeed ZeRO 1, 2 and 3: optimiser state, gradients and weights are split over the ranks.

Each trained net is one engine around its phase module. DeepSpeed's own checkpoints, schedulers, accumulation
and launcher are not used: it reduces, clips, steps and gathers. `_masters` below reads where it keeps the
fp32 state, by private names that 0.19 has (hence the pin); tests/parity and tests/checkpoint prove it for
every layout.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from llmkit.engine import optim, zero_config
from llmkit.engine.backend import Applied, Backend, Piece
from llmkit.engine.rules import Cut, Part
from llmkit.errors import ConfigError
from llmkit.log import warn
from llmkit.models.blocks import initialise
from llmkit.objectives.phase import Phase

PIN = "0.19."


class Zero(Backend):
    """ZeRO at the stage that `parallel.backend` names, with fp32 masters; offload to host memory if asked."""

    def __init__(self, objective, nets, optims, parallel, seed):
        super().__init__(objective, nets, optims, parallel, seed)
        self.stage = _stage(parallel)
        self.refuse(objective, parallel)
        self.deepspeed = _deepspeed(self.device)
        self.configs = {name: self._config(name) for name in self.trained}
        for name, net in nets.items():
            self._materialise(name, net)
        self.optimizers = {name: optim.build(nets[name], optims[name]) for name in self.trained}
        self.engines = {name: self._engine(name) for name in self.trained}

    @classmethod
    def refuse(cls, objective, parallel) -> None:
        double = [phase.name for phase in objective.phases if phase.double_backward]
        if _stage(parallel) == 3 and double:
            raise ConfigError(
                f"parallel.backend: zero3 cannot differentiate twice, as phase {double[0]} does; use zero2"
            )
        if _stage(parallel) < 3 and parallel.offload == "params":
            raise ConfigError("parallel.offload: params needs parallel.backend=zero3; use offload=optimizer")

    def _config(self, net: str) -> dict[str, Any]:
        params = self.nets[net].parameters()  # stages 1 and 2 move what is trained, stage 3 all of it
        numel = sum(p.numel() for p in params if p.requires_grad or self.stage == 3)
        config = zero_config.render(self.stage, self.parallel, self.optims[net], numel)
        schema = self.deepspeed.runtime.zero.config.DeepSpeedZeroConfig.model_fields
        if unknown := zero_config.lint(config["zero_optimization"], schema):
            warn(f"deepspeed {self.deepspeed.__version__} has settings of its own: {', '.join(unknown)}")
        return config

    def _materialise(self, name: str, net: nn.Module) -> None:
        """Give `net` its weights; at stage 3 each parameter is split before the next one is made."""
        placed = {}
        if self.stage == 3 and name in self.trained:
            dtype = torch.bfloat16 if self.parallel.weights == "bf16" else torch.float32
            split = self.deepspeed.zero.Init(config_dict_or_path=self.configs[name], dtype=dtype)

            def place(p):
                p.data = p.data.to(dtype)  # DeepSpeed would do so only for modules that it makes itself
                split._convert_to_zero_parameters([p])

            placed = {"placed": place}
        if any(p.is_meta for p in net.parameters()):
            initialise(net, self.seed, self.device, **placed)
        net.to(self.device)

    def _engine(self, net: str) -> nn.Module:
        with contextlib.redirect_stdout(io.StringIO()):  # stage 1 with bf16 weights prints its memory
            engine, *_ = self.deepspeed.initialize(
                model=self.module(net), optimizer=self.optimizers[net], config=self.configs[net]
            )
        self.optimizers[net].cut = Sharded(engine.optimizer, self.device)
        return engine

    # ---- one update ----------------------------------------------------------------------------------------

    def autocast(self):
        """The engine enters autocast itself, as its config says."""
        return contextlib.nullcontext()

    def optimizer(self, net: str) -> optim.Optimizer:
        return self.optimizers[net]

    def backward(self, phase: Phase, loss: torch.Tensor) -> None:
        self.engines[phase.net].backward(loss)

    def step(self, phase: Phase) -> Applied:
        engine = self.engines[phase.net]
        engine.step()
        applied, norm = engine.was_step_applied(), engine.get_global_grad_norm()
        return Applied(
            torch.tensor(float(applied), device=self.device),
            torch.as_tensor(norm, dtype=torch.float32, device=self.device).detach(),
        )

    # ---- state ---------------------------------------------------------------------------------------------

    def pieces(self, net: str, writing: bool) -> Iterator[Piece]:
        optimizer = self.optimizers[net]
        masters = list(_masters(self.engines[net].optimizer))
        if writing and any(not optimizer.state.get(flat) for _, flat, _ in masters):
            self.allocate(net, 0)  # no step has been applied yet
        names = {p: name for name, p in self.nets[net].named_parameters()}
        for _, flat, ranges in masters:
            for at in ranges:
                if at.numel:
                    views = {"param": flat.detach(), **optimizer.moments(flat)}
                    here = {
                        kind: view.view(-1).narrow(0, at.offset, at.numel) for kind, view in views.items()
                    }
                    yield names[at.p], _shape(at.p), at.start, here
        yield from self._untrained(net, writing)

    def _untrained(self, net: str, writing: bool) -> Iterator[Piece]:
        """Parameters of a trained net that are frozen for good, of which no optimiser knows."""
        for i, (name, p) in enumerate(self.nets[net].named_parameters()):
            if p.requires_grad:
                continue
            if self.stage == 3:
                start = p.partition_numel() * self.rank
                numel = max(0, min(p.partition_numel(), p.ds_numel - start))
                if numel:
                    yield (
                        name,
                        p.ds_shape,
                        start,
                        {"param": p.ds_tensor.detach().view(-1).narrow(0, 0, numel)},
                    )
            elif not writing or i % self.world == self.rank:
                yield name, p.shape, 0, {"param": p.detach().view(-1)}

    @torch.no_grad()
    def allocate(self, net: str, steps: int) -> None:
        optimizer = self.optimizers[net]
        for number, flat, _ in _masters(self.engines[net].optimizer):
            optimizer.state[flat] = optimizer.fresh(flat, optimizer.param_groups[number], steps)

    def steps_taken(self, net: str) -> int:
        return self.optimizers[net].steps()

    @torch.no_grad()
    def refresh(self, net: str) -> None:
        zero = self.engines[net].optimizer
        if self.stage == 3:
            zero._partition_all_parameters()  # nothing may stay gathered
            for i in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(i)  # weights <- masters
            zero.checkpoint_event_epilogue()
        else:
            zero.update_lp_params()
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def gathered(self, net: str):
        if self.stage < 3 or net not in self.trained:
            return contextlib.nullcontext()
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        return unwrap_model_for_generation(self.engines[net])

    def close(self) -> None:
        for engine in self.engines.values():
            engine.destroy()


class Sharded(Cut):
    """Flat shards: which parameters have a piece in one, and sums over the ranks that hold the others."""

    def __init__(self, zero, device: torch.device):
        self.device = device
        self._parts = {
            flat: [Part(_shape(at.p), at.start, at.offset, at.numel) for at in ranges]
            for _, flat, ranges in _masters(zero)
        }

    def parts(self, p: torch.Tensor) -> list[Part]:
        return self._parts[p]

    def total(self, x: torch.Tensor) -> torch.Tensor:
        there = x.to(self.device)  # an offloaded shard lies in host memory
        torch.distributed.all_reduce(there)
        return there.to(x.device)


# ---- where DeepSpeed 0.19 keeps the fp32 state -------------------------------------------------------------


class Range(NamedTuple):
    """`numel` elements of parameter `p`, from its `start` on, lie in a flat master from `offset` on."""

    p: nn.Parameter
    offset: int
    start: int
    numel: int


def _masters(zero) -> Iterator[tuple[int, torch.Tensor, list[Range]]]:
    """Each flat fp32 master of this rank, which keys the optimiser's state: (group, master, what lies in it).

    All parameters of the group are listed, on every rank in the same order; `numel` is 0 where none of one is
    here.
    """
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        flats, groups = zero.fp32_partitioned_groups_flat, zero.fp16_groups
        for i, (flat, group) in enumerate(zip(flats, groups, strict=True)):
            yield zero.sub_group_to_group_id[i], flat, list(_partitions(zero, group))
        return
    if hasattr(zero, "fp32_groups_flat_partition"):  # stage 1 with bf16 weights and fp32 accumulation
        flats, groups = zero.fp32_groups_flat_partition, zero.bf16_groups
    else:
        flats, groups = zero.single_partition_of_fp32_groups, zero.bit16_groups
    for i, (flat, group) in enumerate(zip(flats, groups, strict=True)):
        yield i, flat, [_mapped(p) for p in group]


def _mapped(p: nn.Parameter) -> Range:
    if (m := p._hp_mapping) is None:
        return Range(p, 0, 0, 0)
    return Range(p, m.hp_fragment_address.start, m.lp_fragment_address.start, m.hp_fragment_address.numel)


def _partitions(zero, group) -> Iterator[Range]:
    offset = 0
    for p in group:
        part = p.partition_numel()  # ceil(numel / world): the last rank's may be short
        start = part * zero._get_param_partition_rank(p)
        yield Range(p, offset, start, max(0, min(part, p.ds_numel - start)))
        offset += part


def _stage(parallel) -> int:
    return int(parallel.backend.removeprefix("zero"))


def _shape(p: nn.Parameter) -> torch.Size:
    return getattr(p, "ds_shape", p.shape)


_joined: Any = None
"""The process group that DeepSpeed knows: it keeps its groups and never asks whether they still exist."""


def _deepspeed(device: torch.device):
    """The library, told where to run and to keep out of the terminal. ConfigError if it is not 0.19."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    if not deepspeed.__version__.startswith(PIN):
        raise ConfigError(
            f"parallel.backend: ZeRO needs deepspeed=={PIN}*, this is {deepspeed.__version__}; install it"
        )
    deepspeed.utils.logger.handlers = [logging.NullHandler()]
    deepspeed.utils.logger.propagate = True  # to the handlers of the run, if it has any
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed"
    )  # names it calls by
    # Used for inference alone; building it takes a compiler and half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    global _joined
    if (
        _joined is not torch.distributed.group.WORLD
    ):  # an earlier run of this process had another process group
        deepspeed.utils.groups._release_process_group_references()
        deepspeed.comm.comm.cdb = None
        backend = deepspeed.accelerator.get_accelerator().communication_backend_name()
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        _joined = torch.distributed.group.WORLD
    return deepspeed

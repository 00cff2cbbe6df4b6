"""Every rank holds every network: DistributedDataParallel, or nothing at all for a single process."""

import contextlib
import inspect
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llmkit.engine import optim
from llmkit.engine.backend import Applied, Backend, Piece
from llmkit.models.blocks import initialise
from llmkit.objectives.phase import Phase

BUFFERS_STAY = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else {"broadcast_buffers": False}  # its name before torch 2.13
)
"""Every forward leaves a rank's buffers as they are, as under ZeRO."""


class Ddp(Backend):
    """Replicated training. Gradients are averaged by DDP; clipping and stepping is the same on every rank."""

    def __init__(self, objective, nets, optims, parallel, seed):
        super().__init__(objective, nets, optims, parallel, seed)
        for net in nets.values():
            if any(p.is_meta for p in net.parameters()):
                initialise(net, seed, self.device)
            net.to(self.device)
        self.optimizers = {name: optim.build(nets[name], optims[name]) for name in self.trained}
        self.engines = {name: self._wrap(name) for name in self.trained}

    def _wrap(self, net: str) -> nn.Module:
        module = self.module(net)
        if self.world == 1:
            return module
        phases = sum(phase.net == net for phase in self.objective.phases)
        return DistributedDataParallel(
            module,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            **BUFFERS_STAY,
            find_unused_parameters=phases > 1,  # a phase may use a part of its net
        )

    def optimizer(self, net: str) -> optim.Optimizer:
        return self.optimizers[net]

    def accumulate(self, phase: Phase, last: bool):
        alone = last or self.world == 1
        return contextlib.nullcontext() if alone else self.engines[phase.net].no_sync()

    def backward(self, phase: Phase, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, phase: Phase) -> Applied:
        optimizer = self.optimizers[phase.net]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p in params:
            if p.grad is None:  # what a phase leaves untouched has gradient zero, as under ZeRO
                p.grad = torch.zeros_like(p)
        norm = total_norm([p.grad for p in params])
        if limit := self.optims[phase.net].clip:
            nn.utils.clip_grads_with_norm_(params, limit, norm)
        finite = norm.isfinite()
        optimizer.found_inf = (~finite).float()
        optimizer.step()
        for p in params:
            p.grad = None
        return Applied(finite, norm)

    def pieces(self, net: str, writing: bool) -> Iterator[Piece]:
        optimizer = self.optimizers[net]
        if writing and not optimizer.state:
            self.allocate(net, 0)  # no step has been applied yet
        for i, (name, p) in enumerate(self.nets[net].named_parameters()):
            if writing and i % self.world != self.rank:
                continue
            moments = optimizer.moments(p)
            alike = {kind: value.view(-1) for kind, value in moments.items() if value.shape == p.shape}
            yield name, p.shape, 0, {"param": p.detach().view(-1), **alike}
            for kind in moments.keys() - alike.keys():  # Adafactor's means, in shapes of their own
                yield f"{name}.{kind}", moments[kind].shape, 0, {kind: moments[kind].view(-1)}

    @torch.no_grad()
    def allocate(self, net: str, steps: int) -> None:
        optimizer = self.optimizers[net]
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p] = optimizer.fresh(p, group, steps)

    def steps_taken(self, net: str) -> int:
        return self.optimizers[net].steps()

    def close(self) -> None:
        """Let go of DDP's reducers while the process group lives.

        One that holds the last reference to it joins gloo's thread with the GIL held, and that thread may be
        waiting for the GIL: seen in 1 of 10 exits by an exception (torch 2.13).
        """
        for engine in self.engines.values():
            if isinstance(engine, DistributedDataParallel):
                engine.reducer = engine.logger = None
        self.engines.clear()


def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients, as a 0-d tensor.

    torch's CPU kernel adds up a million squares in fp32 and is 3e-6 off by then; row by row it is 4e-8.
    """
    if gradients[0].device.type != "cpu":
        return nn.utils.get_total_norm(gradients)
    norm = torch.linalg.vector_norm
    return norm(torch.cat([(norm(g, dim=-1) if g.ndim > 1 else g).flatten() for g in gradients]))

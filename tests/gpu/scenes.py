"""What the pretended GPU must refuse and count, and two faults planted in training, for test_gpu.py.

python -m tests.gpu.scenes     {scene: {"raised": what, "waits": {operation @ where: times}}}
"""

import json
from dataclasses import replace

import torch

from tests.gpu import device, steps


def gpu(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


def pinned(*shape: int) -> torch.Tensor:
    return torch.empty(shape, pin_memory=True)


def planted(fault) -> dict[str, int]:
    """The waits of two causal steps whose counts have been through `fault`. Raises what stopped them."""
    problem = steps.PROBLEMS["causal"]
    objective = problem.objective()
    honest = objective.count
    objective.count = lambda phase, batch: {k: fault(v) for k, v in honest(phase, batch).items()}
    return steps.train(replace(problem, objective=lambda: objective), "gpu", "fp32")[1].waits


SCENES = {
    "a sum of both devices": lambda: gpu(3) + torch.ones(3),
    "a write to the CPU": lambda: torch.ones(()).add_(gpu()),
    "a list of both devices": lambda: torch.cat([gpu(3), torch.ones(3)]),
    "a CPU tensor as a number": lambda: gpu(3) + torch.ones(()),
    "CPU indices": lambda: gpu(3)[torch.tensor([0, 2])],
    "a generator of the CPU": lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
    "sums, views and products": lambda: (gpu(3, 3)[1] @ gpu(3, 3)).softmax(0).sum(),
    "a number read": lambda: float(gpu(3).sum()),
    "a list read": lambda: gpu(3).tolist(),
    "a mask as an index": lambda: gpu(3)[gpu(3) > 0],
    "a tensor of host numbers": lambda: torch.tensor([1.0], device="cuda"),
    "a copy that blocks": lambda: torch.ones(3).to("cuda"),
    "a copy that does not block": lambda: torch.ones(3).to("cuda", non_blocking=True),
    "a copy to pinned memory": lambda: pinned(3).copy_(gpu(3), non_blocking=True),
    "a copy to pageable memory": lambda: torch.empty(3).copy_(gpu(3), non_blocking=True),
    "a forgotten device in training": lambda: planted(lambda count: count + torch.ones(1)),
    "a number read in training": lambda: planted(float),
}


def play(scene) -> dict:
    """What came of one of them. Waits in training are those of its second step."""
    with device.Gpu() as there:
        raised = out = None
        try:
            out = scene()
        except RuntimeError as error:
            raised = str(error)
        return {"raised": raised, "waits": out if isinstance(out, dict) else dict(there.waits)}


if __name__ == "__main__":
    device.pretend()
    print(json.dumps({name: play(scene) for name, scene in SCENES.items()}))

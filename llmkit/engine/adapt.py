"""Adapters in a run: which nets get one, and what stands for the nets that are copies of them.

recipe.adapter ─► every trained net: adapter and head learn, the rest is borrowed from `init`
               ─► a reference: the trained net with its adapter left out, not a second net in memory
"""

from torch import nn

from llmkit.models.adapter import Adapter
from llmkit.objectives.phase import Objective


def put_on(
    nets: dict[str, nn.Module], objective: Objective, settings: Adapter | None
) -> dict[str, nn.Module]:
    """`nets`, with an adapter on those that `objective` trains if there are `settings` for one."""
    if settings is None:
        return nets
    from llmkit.models import lora

    for name in {phase.net for phase in objective.phases}:
        lora.inject(nets[name], settings)
    for copy, name in objective.references.items():
        if copy in nets:
            nets[copy] = lora.Bare(nets[name])
            objective.whole = tuple(dict.fromkeys([*objective.whole, name]))  # `prepare` asks it
    return nets

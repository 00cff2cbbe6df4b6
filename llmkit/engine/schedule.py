"""Learning-rate schedules: pure functions of the step, so a resumed run cannot disagree with itself."""

import math
from typing import Literal

from pydantic import model_validator

from llmkit.config import Field, Section


class Schedule(Section):
    """A factor on every learning rate, from warm-up to decay."""

    name: Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"] = Field(
        "cosine", description="shape after the warm-up"
    )
    warmup_frac: float = Field(0.02, ge=0, le=1, description="share of the run that rises linearly from 0")
    decay_frac: float = Field(0.2, ge=0, le=1, description="wsd: share of the run that decays as 1 - sqrt")
    final_frac: float = Field(
        0.1, ge=0, le=1, description="the factor at the last step; not for constant and inverse_sqrt"
    )

    only_with = {"decay_frac": ("name", "wsd"), "final_frac": ("name", "cosine", "linear", "wsd")}

    @model_validator(mode="after")
    def _room(self):
        if self.name == "wsd" and self.warmup_frac + self.decay_frac > 1:
            raise ValueError(
                f"decay_frac: {self.decay_frac} begins before the warm-up of {self.warmup_frac} is over; "
                "lower one of them"
            )
        return self


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """The learning-rate factor of step `step` (from 0) of `steps`.

    cosine: Loshchilov & Hutter 2017; wsd: warm-up, stable, 1 - sqrt decay (Haegele et al. 2024, eq. 1);
    inverse_sqrt: Vaswani et al. 2017, eq. 3, with its peak at 1; linear: BERT's.
    """
    warmup = round(schedule.warmup_frac * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "inverse_sqrt":
        return math.sqrt((warmup + 1) / (step + 1))
    fall = 1 - schedule.final_frac
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    if schedule.name == "linear":
        return schedule.final_frac + fall * (1 - done)
    if schedule.name == "cosine":
        return schedule.final_frac + fall * 0.5 * (1 + math.cos(math.pi * done))
    decay = round(schedule.decay_frac * steps)
    left = steps - 1 - step
    if left >= decay:
        return 1.0
    return schedule.final_frac + fall * (1 - math.sqrt((decay - left) / max(1, decay)))

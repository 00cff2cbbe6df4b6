"""Non-finite steps are never applied; this counts them, and gives up on too many in a row."""

import torch

from llmkit.engine.backend import Applied
from llmkit.errors import DivergedError
from llmkit.log import say
from llmkit.objectives.phase import Objective


class Flag:
    """A flag on the device, on its way to the host: reading it waits for no work that was queued after it."""

    def __init__(self, flag: torch.Tensor):
        self._flag, self._arrived = flag, None
        if flag.is_cuda:
            here = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self._flag, self._arrived = here.copy_(flag, non_blocking=True), torch.cuda.Event()
            self._arrived.record()

    def __bool__(self) -> bool:
        if self._arrived:
            self._arrived.synchronize()
        return bool(self._flag)


class Guard:
    """Reads each outcome one step late, when the device has long finished it, so that nobody waits."""

    def __init__(self, max_skips: int):
        self.max_skips = max_skips
        self.skipped = 0
        self.in_a_row = 0
        self._pending: list[Flag] = []

    def watch(self, outcome: Applied) -> None:
        self._pending.append(Flag(outcome.applied))

    def heed(self, objective: Objective, done: int, last: bool, newest) -> None:
        """DivergedError where the objective says that the run must end, or warns at its end."""
        if objective.verdict or (last and objective.warning):
            kept = f"back to {newest()}" if newest() else "no checkpoint was saved before that began"
            raise DivergedError(
                f"step {done}: objective.{objective.verdict or objective.warning}; {kept}; "
                "use that one, or change optim, the objective or the rule, and take another out="
            )

    def check(self, done: int, newest) -> None:
        """Count the skips of the steps before this one. DivergedError once `max_skips` came in a row."""
        while len(self._pending) > 1 or (self._pending and self.in_a_row):
            if bool(self._pending.pop(0)):
                self.in_a_row = 0
                continue
            self.skipped += 1
            self.in_a_row += 1
            say(f"step {done}: gradient is not finite; the step was skipped ({self.in_a_row} in a row)")
            if self.in_a_row >= self.max_skips:
                kept = (
                    f"the last good checkpoint is {newest()}" if newest() else "no checkpoint was saved yet"
                )
                raise DivergedError(
                    f"step {done}: {self.in_a_row} non-finite gradients in a row; {kept}; "
                    "lower optim.lr, or look at the data of these steps"
                )

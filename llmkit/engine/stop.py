"""Stopping on request: any rank may be asked (signal, time limit), all ranks agree, at the end of a step."""

import signal
import time

from llmkit import dist

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stop:
    """Listens for SIGTERM, SIGINT and SIGUSR1, and for the time limit."""

    def __init__(self, time_limit_s: float | None):
        self.until = time.monotonic() + time_limit_s if time_limit_s else None
        self.asked = ""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def _ask(self, number, frame) -> None:
        self.asked = signal.Signals(number).name

    def agreed(self, done: int) -> str | None:
        """Why all ranks now stop, or None."""
        if self.until and time.monotonic() > self.until:
            self.asked = self.asked or "time limit"
        if dist.world() == 1:
            return self.asked or None
        return "another rank was asked to" if dist.sums({"stop": bool(self.asked)})["stop"] else None

    def told(self, done: int, steps: int, why: str, warning: str, newest) -> str:
        """The last line of a run that stops; one whose objective warns was not saved (Saver.save)."""
        where = "there"
        if warning:
            where = f"{newest or 'its beginning'}, since nothing is saved while objective.{warning}"
        return f"stopped at step {done} of {steps} ({why}); the same command continues from {where}"

    def close(self) -> None:
        """Listen no more; but a process that ends on request must not be cut short by another SIGTERM."""
        for number, handler in self._before.items():
            if not self.asked or number == signal.SIGINT:
                signal.signal(number, handler)

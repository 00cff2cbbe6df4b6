"""A profile of some steps of a run: where the time and the memory went, as a table and as a Chrome trace.

RUN/profile/rank_0.json   open it in chrome://tracing or https://ui.perfetto.dev
RUN/profile/rank_0.txt    operators by their own time
"""

from pathlib import Path

import torch

from llmkit import dist
from llmkit.log import say, warn


class Profile:
    """Profiles steps `first` up to, not including, `last`; `span` is "first:last", or None for none."""

    def __init__(self, span: str | None, folder: Path):
        self.first, self.last = map(int, span.split(":")) if span else (-1, -1)
        self.folder = folder
        self._running: torch.profiler.profile | None = None
        self._due = span is not None

    def begin(self, step: int) -> None:
        """To be called before every step."""
        if step == self.first and self.first < self.last:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self._running = torch.profiler.profile(activities=kinds, profile_memory=True, with_flops=True)
            self._running.start()
            self._due = False
        if step == self.last:
            self.close()

    def close(self) -> None:
        """Stop and write, if it is running; say so if its steps have not come."""
        if self._running is None:
            if self._due:
                warn(f"run.profile: no step of {self.first}:{self.last} began here; nothing was profiled")
            self._due = False
            return
        self._running.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"rank_{dist.rank()}"
        self._running.export_chrome_trace(f"{stem}.json")
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self._running.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=60)
        Path(f"{stem}.txt").write_text(table)
        self._running = None
        say(f"profile: steps {self.first} to {self.last} are in {self.folder}")

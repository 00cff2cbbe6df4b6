"""From a step number to the micro-batches of this rank; with a GPU a thread prepares them one step ahead.

    sample = before(step) * draws + draw * rows + (micro * world + rank) * micro_rows + j

Every sample number stands in exactly one micro-batch of one rank, whatever the world size; `Order` turns
it into a row. A rank that runs out of rows still gets its batch, of padding alone, so that all ranks run
the same number of them.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from llmkit.data.order import Growth, Order

Batch = dict[str, Any]


class Loader:
    """The batches of one rank: `group(step)` to train on, `heldout(max_rows)` to evaluate on.

    `rows` is the global number of rows of a step (per draw), or how it grows; `micro_rows` the most that one
    micro-batch holds. A dataset may have an `order(seed)` of its own, and `groups` of row ids to be evaluated
    apart. `ledger` is told which rows each step was given.

    `ahead`: prepare the next step in a thread while this one is computed. Without a GPU that slows small nets
    and helps no others: the thread takes a core, and the GIL, from the threads of torch that compute.
    """

    ledger = None

    def __init__(
        self,
        dataset,
        rows: int | Growth,
        micro_rows: int,
        rank: int,
        world: int,
        seed: int,
        draws: int = 1,
        ahead: bool | None = None,
    ):
        self.dataset = dataset
        self.growth = rows if isinstance(rows, Growth) else Growth(rows)
        self.micro_rows = micro_rows
        self.rank = rank
        self.world = world
        self.draws = draws
        self._seed = seed
        ahead = torch.cuda.is_available() if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader") if ahead else None
        self._ahead: tuple[int, Future] | None = None

    @functools.cached_property
    def _order(self):
        own = getattr(self.dataset, "order", None)
        return own(self._seed) if own else Order(len(self.dataset), self._seed)

    def samples(self, step: int) -> list[list[int]]:
        """The global sample numbers of each micro-batch of this rank at `step`; empty lists included."""
        micros = []
        rows = self.growth.at(step)
        for draw in range(self.draws):
            first = self.growth.before(step) * self.draws + draw * rows
            for micro in range(-(-rows // (self.world * self.micro_rows))):
                start = (micro * self.world + self.rank) * self.micro_rows
                micros.append([first + i for i in range(start, min(start + self.micro_rows, rows))])
        return micros

    def group(self, step: int) -> list[Batch]:
        """The micro-batches of `step`, draw by draw."""
        ready = self._prepared(step) if self._thread else self._make(step)
        if self.ledger:
            self.ledger.note(step, ((s, self._order.row(s)) for micro in self.samples(step) for s in micro))
        return ready

    def groups(self, max_rows: int | None = None) -> dict[str, list[Batch]]:
        """`heldout` of each group of rows that the dataset names, or of all rows under ""."""
        groups = getattr(self.dataset, "groups", {"": None})
        return {name: list(self.heldout(max_rows, group)) for name, group in groups.items()}

    def heldout(self, max_rows: int | None = None, group: range | None = None) -> Iterator[Batch]:
        """Batches over the dataset or a group of it, or a fixed random `max_rows` of that, dealt to ranks.

        The rows do not depend on the run's seed, so figures of different runs are about the same rows.
        """
        group = group or range(len(self.dataset))
        n = len(group)
        wanted = min(n, max_rows or n)
        fixed = Order(n, seed=0)
        stride = self.world * self.micro_rows
        for micro in range(-(-wanted // stride)):
            start = micro * stride + self.rank * self.micro_rows
            places = range(start, min(start + self.micro_rows, wanted))
            yield _pin(self.dataset.batch([(i, group[fixed.row(i)]) for i in places]))

    def close(self) -> None:
        """Stop the thread; what it has prepared is dropped."""
        if self._thread:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, step: int) -> list[Batch]:
        """The batches of `step` from the thread, which starts on those of the next."""
        if self._ahead is None or self._ahead[0] != step:
            self._prepare(step)
        ready = self._ahead[1].result()
        self._prepare(step + 1)
        return ready

    def _prepare(self, step: int) -> None:
        self._ahead = step, self._thread.submit(self._make, step)

    def _make(self, step: int) -> list[Batch]:
        return [
            _pin(self.dataset.batch([(sample, self._order.row(sample)) for sample in micro]))
            for micro in self.samples(step)
        ]


def _pin(batch: Batch) -> Batch:
    """The batch in page-locked memory where there is a GPU, so that copies to it can overlap with work."""
    if not torch.cuda.is_available():
        return batch
    return {
        key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in batch.items()
    }

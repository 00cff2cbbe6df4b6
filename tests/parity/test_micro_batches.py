"""Eight rows are one batch, however they are cut: 1 x 8, 2 x 4 and 8 x 1 have the same loss and gradient.

Of every objective of llmkit and every phase, on plain torch in one process; ranks and backends are the
matrix's business (test_matrix.py), packing that of the data sets (tests/data/sets).
"""

import pytest
import torch

from llmkit.objectives.phase import add
from tests.parity.plain import as_tensors
from tests.parity.problems import PROBLEMS, ROWS, build

OURS = [name for name, problem in PROBLEMS.items() if problem.objective.__name__ == "<lambda>"]
SLOTS, STEP = 4, 1
"""Of step 1 the rows of slot 1 are empty, so micro-batches differ in what they hold."""


def cut(batches: list[dict], size: int) -> list[dict]:
    """The same rows as micro-batches of `size` rows."""
    whole = dict(batches[0])
    for key, value in batches[0].items():
        if isinstance(value, torch.Tensor):
            whole[key] = torch.cat([batch[key] for batch in batches])
        elif key == "prompts":
            whole[key] = [prompt for batch in batches for prompt in batch[key]]
    rows = len(next(v for k, v in whole.items() if k == "prompts" or isinstance(v, torch.Tensor)))
    sliced = lambda v, i: v[i : i + size] if isinstance(v, torch.Tensor | list) and len(v) == rows else v  # noqa: E731
    return [{key: sliced(value, i) for key, value in whole.items()} for i in range(0, rows, size)]


def measured(name: str, size: int, fault: bool = False) -> dict[str, tuple[float, torch.Tensor]]:
    """phase -> (loss, gradient) of its first update. `fault`: every micro-batch is taken for the whole."""
    problem = PROBLEMS[name]
    objective, nets = build(problem)
    draws = [[problem.batch(STEP, draw, slot) for slot in range(SLOTS)] for draw in range(objective.draws)]
    group = [micro for batches in draws for micro in cut(batches, size)]
    ready = objective.prepare(group, nets, as_tensors, 0)
    out = {}
    for phase in objective.phases:
        rows = objective.rows(phase, 0, ready)
        counts = [as_tensors(objective.count(phase, batch)) for batch in rows]
        total = {key: value.clamp(min=1) for key, value in add(counts).items()}
        if fault:
            shares = [
                objective.loss(phase, nets, batch, {k: v.clamp(min=1) for k, v in own.items()})[0] / len(rows)
                for batch, own in zip(rows, counts, strict=True)
            ]
        else:
            shares = [objective.loss(phase, nets, batch, total)[0] for batch in rows]
        parameters = list(nets[phase.net].parameters())
        found = torch.autograd.grad(sum(shares), parameters, allow_unused=True)
        flat = torch.cat([g.flatten() for g in found if g is not None])
        out[phase.name] = float(sum(shares).detach()), flat
    return out


def away(name: str, size: int, fault: bool = False) -> float:
    """The largest departure of a loss or a gradient from that of the whole batch, relative."""
    found = []
    for phase, (loss, gradient) in measured(name, size, fault).items():
        whole = measured(name, ROWS * SLOTS)[phase]
        found.append(abs(loss - whole[0]) / max(abs(whole[0]), 1.0))
        found.append(float((gradient - whole[1]).norm() / whole[1].norm()))
    return max(found)


@pytest.mark.parametrize("size", [4, 1])
@pytest.mark.parametrize("name", OURS)
def test_rows_may_be_cut_into_any_micro_batches(name, size):
    assert away(name, size) < 2e-6


@pytest.mark.parametrize("name", OURS)
def test_a_mean_of_means_is_noticed(name):
    assert away(name, 4, fault=True) > 1e-4

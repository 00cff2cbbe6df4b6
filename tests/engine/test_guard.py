"""Skips are counted one step late, said, and too many in a row end the run."""

import pytest
import torch

from llmkit.engine.backend import Applied
from llmkit.engine.guard import Guard
from llmkit.errors import DivergedError


def play(guard, outcomes):
    for step, good in enumerate(outcomes, 1):
        guard.watch(Applied(torch.tensor(good), torch.tensor(1.0)))
        guard.check(step, lambda: None)


def test_single_skips_are_counted_and_forgiven(capsys):
    guard = Guard(max_skips=3)
    play(guard, [True, False, True, False, True, True])
    assert guard.skipped == 2
    assert capsys.readouterr().out.count("skipped") == 2


def test_too_many_in_a_row_end_the_run():
    with pytest.raises(DivergedError, match="3 non-finite gradients in a row"):
        play(Guard(max_skips=3), [True, False, False, False, False])

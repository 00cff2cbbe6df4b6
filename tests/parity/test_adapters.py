"""Adapters take plain torch's steps on every backend: LoRA under DPO, whose reference is the net without it,
DoRA under a reward model, whose head learns too, LoRA on an encoder that tags and on an encoder-decoder that
translates. Two ranks, one spawn for all.
"""

import functools

import pytest

from tests import ranks
from tests.parity import cases
from tests.parity.problems import ADAPTED
from tests.parity.test_matrix import LIMITS

BACKENDS = ("ddp", "zero2", "zero3")


@functools.cache
def measured() -> list[dict]:
    return ranks.run(cases.adapters, 2, 2, list(BACKENDS), timeout_s=400)


def offences(case: str) -> list[str]:
    found = [result[case] for result in measured()]
    return [
        f"{key} {value:.1e}" for one in found for key, value in one.items() if value > LIMITS.get(key, value)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("problem", ADAPTED)
def test_an_adapter_takes_the_steps_of_plain_torch(problem, backend):
    assert not offences(f"{problem}-{backend}")


@pytest.mark.slow
@pytest.mark.parametrize("problem", ADAPTED)
def test_a_doubled_denominator_is_noticed(problem):
    assert offences(f"{problem}-planted")

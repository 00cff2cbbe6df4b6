"""VAEs and GANs on ddp, ZeRO-1 and ZeRO-2, any accumulation and 1 or 2 ranks take plain torch's steps."""

import functools

import pytest

from tests import ranks
from tests.parity.test_matrix import LIMITS
from tests.vision import parity

BACKENDS = ["ddp", "zero1", "zero2"]


@functools.cache
def measured(world: int) -> list[dict]:
    return ranks.run(parity.matrix, world, world, BACKENDS, timeout_s=400)


def offences(world: int, case: str) -> list[str]:
    return [
        f"rank {rank}: {kind} {result[case][kind]:.1e}"
        for rank, result in enumerate(measured(world))
        for kind, limit in LIMITS.items()
        if not result[case][kind] <= limit
    ]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("problem", parity.PROBLEMS)
@pytest.mark.parametrize("world", [1, 2])
def test_the_engine_takes_the_steps_of_plain_torch(world, problem, backend, accumulation):
    assert not offences(world, f"{problem}-{backend}-x{accumulation}")


@pytest.mark.slow
@pytest.mark.parametrize("problem", parity.PROBLEMS)
@pytest.mark.parametrize("world", [1, 2])
def test_a_doubled_denominator_is_noticed(world, problem):
    assert offences(world, f"{problem}-ddp-x1-planted")

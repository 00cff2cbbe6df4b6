"""Every optimiser takes its published step on every backend, and the probe tells those that would not."""

import functools

import pytest

from llmkit.engine import probe
from llmkit.engine.recipe import Optim, Parallel
from tests import ranks
from tests.parity import cases
from tests.parity.test_matrix import BACKENDS, LIMITS

CASES = [f"{name}-{b}" for name in cases.OPTIMISERS for b in BACKENDS if name != "adafactor" or b == "ddp"]


@functools.cache
def measured() -> list[dict]:
    return ranks.run(cases.optimisers, 2, 2, list(BACKENDS), timeout_s=200)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_optimiser_takes_its_published_steps_whatever_the_backend(case):
    for results in measured():
        assert not isinstance(results[case], str), results[case]
        off = {key: value for key, value in results[case].items() if value > LIMITS.get(key, value)}
        assert not off


@pytest.mark.slow
def test_the_probe_passes_what_is_exact_and_finds_what_is_not():
    for found in ranks.run(cases.probed, 2, 2, list(BACKENDS), timeout_s=200):
        wrong = {case for case, off in found.items() if off > 1e-3}
        assert wrong == {f"adafactor-zero{stage}" for stage in (1, 2, 3)}
        assert all(off < 1e-5 for case, off in found.items() if case not in wrong), found


def test_a_learning_rate_of_0_takes_no_step_and_departs_from_none():
    settings = Parallel(backend="ddp", precision="fp32", compile="off")
    assert probe.check(cases.backend_class("ddp"), Optim(name="muon", lr=0.0), settings) == 0.0

"""Schedules are pure functions of the step with the right ends and no jumps."""

import pytest

from llmkit.engine.schedule import Schedule, factor


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "inverse_sqrt", "constant"])
def test_a_schedule_warms_up_from_near_zero_and_never_exceeds_one(name):
    schedule = Schedule(name=name, warmup_frac=0.1)
    values = [factor(schedule, step, 200) for step in range(200)]
    assert values[0] == pytest.approx(1 / 21)
    assert max(values) == pytest.approx(1.0)
    assert all(abs(a - b) < 0.2 for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_a_decaying_schedule_ends_at_final_frac(name):
    schedule = Schedule(name=name, warmup_frac=0.0, final_frac=0.05)
    assert factor(schedule, 99, 100) == pytest.approx(0.05)


def test_wsd_is_flat_until_its_decay_and_then_falls_as_one_minus_root():
    schedule = Schedule(name="wsd", warmup_frac=0.1, decay_frac=0.2, final_frac=0.0)
    assert factor(schedule, 50, 100) == factor(schedule, 79, 100) == 1.0
    assert factor(schedule, 84, 100) == pytest.approx(1 - (5 / 20) ** 0.5)


def test_inverse_sqrt_halves_when_the_steps_are_four_times_those_of_the_warmup():
    schedule = Schedule(name="inverse_sqrt", warmup_frac=0.1)
    assert factor(schedule, 99, 1000) == pytest.approx(100 / 101)
    assert factor(schedule, 100, 1000) == 1.0
    assert factor(schedule, 403, 1000) == pytest.approx(0.5)


def test_linear_is_halfway_in_the_middle():
    schedule = Schedule(name="linear", warmup_frac=0.0, final_frac=0.2)
    assert factor(schedule, 50, 101) == pytest.approx(0.6)


def test_one_step_runs_have_a_factor():
    assert factor(Schedule(), 0, 1) > 0

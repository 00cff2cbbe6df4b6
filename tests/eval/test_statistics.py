import numpy as np
import pytest

from llmkit.eval import statistics
from llmkit.eval.statistics import bootstrap, calibration_error, mcnemar, paired, sign_test, wilson


def test_wilson_gives_the_published_intervals():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I, method 3
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_is_the_same_for_the_same_key_and_close_to_the_normal_interval():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    one, again, other = bootstrap(values, key="a"), bootstrap(values, key="a"), bootstrap(values, key="b")
    half = statistics.Z95 * values.std() / 20
    assert one == again
    assert one != other
    assert one.value == pytest.approx(values.mean())
    assert (one.low, one.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_bootstrap_of_a_weighted_mean_weights_its_value_too():
    assert bootstrap([1.0, 3.0], weights=[3.0, 1.0]).value == 1.5


def test_draws_of_samples_that_weigh_nothing_leave_the_interval_alone():
    """One sentence in four has entities: most resamplings of four have some, a third has none."""
    found = bootstrap([0.5, 0.0, 0.0, 0.0], weights=[4, 0, 0, 0])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert np.isnan(bootstrap([0.0, 0.0], weights=[0, 0]).value)


def test_pairing_removes_what_both_systems_share():
    draw = np.random.default_rng(4)
    difficulty = draw.normal(0, 10, 300)
    before, after = difficulty + draw.normal(0, 1, 300), difficulty + 0.5 + draw.normal(0, 1, 300)
    alone, together = bootstrap(after - before.mean()), paired(after, before)
    assert together.low > 0
    assert alone.low < 0
    assert together.value == pytest.approx(alone.value)


def test_no_samples_give_no_figure_and_no_error():
    assert np.isnan(bootstrap([]).value)


def test_exact_tests_count_only_what_differs():
    after, before = [True] * 9 + [False] * 1 + [True] * 5, [False] * 9 + [True] * 1 + [True] * 5
    assert mcnemar(after, before) == pytest.approx(2 * (1 + 10) / 2**10)
    assert sign_test([0.2] * 8 + [0.0] * 7) == pytest.approx(2 / 2**8)
    assert sign_test([]) == 1.0
    assert mcnemar([True] * 5000 + [False] * 5000, [False] * 5000 + [True] * 5000) == 1.0


def test_calibration_error_is_the_mean_gap_between_confidence_and_success():
    confidence = [0.9] * 10 + [0.6] * 10
    assert calibration_error(confidence, [1] * 9 + [0] + [1] * 6 + [0] * 4) == pytest.approx(0.0)
    assert calibration_error(confidence, [1] * 10 + [0] * 10) == pytest.approx((0.1 + 0.6) / 2)
    assert calibration_error([1.0, 0.5], [1, 0]) == pytest.approx(0.25)

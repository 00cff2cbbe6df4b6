import pytest

from llmkit.report.curves import bars, line_chart, smooth, ticks
from llmkit.report.markup import duration, number, percent, span


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (1.31, 2.9, [1, 1.5, 2, 2.5, 3]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (2.0, 2.0, [1.0, 1.5, 2.0, 2.5, 3.0]),
        (0.0, 0.0, [-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round_and_reach_around_the_values(low, high, found):
    assert ticks(low, high) == pytest.approx(found)


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    assert smooth([(1, 4.0), (2, 4.0), (9, 4.0)], span=5) == [(1, 4.0), (2, 4.0), (9, 4.0)]
    assert smooth([(1, 8.0), (2, 0.0)], span=5)[0] == (1, 8.0)


def test_nothing_is_drawn_of_nothing_and_not_a_number_is_left_out():
    assert line_chart([], []) == ""
    assert line_chart([(1, 2.0)]) == ""
    assert "nan" not in line_chart([(1, 2.0), (2, float("nan")), (3, 1.0)], unit="nats").lower()
    assert bars([], "bits", "Text") == ""


def test_one_early_spike_does_not_flatten_the_curve():
    points = [(i, 3.0) for i in range(1, 100)]
    chart = line_chart([(0, 500.0), *points], unit="nats")
    assert ">500<" not in chart


def test_figures_are_written_for_people():
    assert [number(x) for x in (None, 3, 12_345, 12_345.6, 0.12345)] == [
        "-",
        "3",
        "12,345",
        "12,346",
        "0.123",
    ]
    assert percent(0.6543) == "65.4 %"
    assert span([-0.01, 0.2], signed=True) == "-1.0 to +20.0 %"
    assert [duration(x) for x in (None, 2.34, 48, 200, 7500)] == [
        "-",
        "2.3 s",
        "48 s",
        "3 min 20 s",
        "2 h 5 min",
    ]

"""Which source a sample comes from: weights in tokens, exact at every sample, capped, staged, in order."""

import pytest

from llmkit.data.mix import Mix, Source, counted, drawn


def walked(mix, n):
    return [mix.place(sample) for sample in range(n)]


def tokens_by_source(mix, n):
    """Tokens of the first `n` samples by source, at each one's mean per row."""
    totals = [0.0] * len(mix.sources)
    for source, _ in walked(mix, n):
        totals[source] += mix.sources[source].tokens / mix.sources[source].rows
    return totals


@pytest.mark.parametrize("shares", [(1,), (1, 1), (7, 3), (70, 29, 1), (0, 5, 0, 2), (1, 10**12, 3)])
def test_every_source_gives_its_rows_in_turn_and_its_share_of_any_number_of_samples(shares):
    """Counting by formula is counting by hand, and at most one row per source away from the exact share."""
    seen = [0] * len(shares)
    for m in range(500):
        assert counted(shares, m) == seen
        assert all(abs(n - m * s / sum(shares)) <= len(shares) for n, s in zip(seen, shares, strict=True))
        source, nth = drawn(shares, m)
        assert nth == seen[source]
        seen[source] += 1


def test_weights_are_of_tokens_and_not_of_rows():
    """0.7/0.3 within 0.1 % over an epoch of the larger source, though the rows of one are half as full."""
    full, half = Source(5000, 5000 * 256), Source(4000, 4000 * 128)
    one, other = tokens_by_source(Mix([full, half], [(0, [0.7, 0.3])]), 9000)
    assert one / (one + other) == pytest.approx(0.7, abs=0.001)


def test_a_source_gives_its_epochs_and_no_more_and_the_others_share_what_was_its_part():
    mix = Mix([Source(100, 100, 200), Source(1000, 1000), Source(50, 50)], [(0, [0.5, 0.25, 0.25])])
    places = walked(mix, 2000)
    last = max(i for i, (source, _) in enumerate(places) if source == 0)
    assert sum(source == 0 for source, _ in places) == 200
    assert 395 <= last <= 405
    after = [source for source, _ in places[last + 1 :]]
    assert after.count(1) == pytest.approx(after.count(2), abs=2)
    assert mix.end is None


def test_when_all_are_used_up_the_mixture_ends_and_says_where():
    mix = Mix([Source(100, 100, 150), Source(30, 30, 60)], [(0, [0.5, 0.5])])
    assert mix.end == 210
    places = walked(mix, 210)
    assert sorted(places) == [(0, i) for i in range(150)] + [(1, i) for i in range(60)]


def test_stages_change_the_weights_where_they_begin_and_no_row_is_left_out_or_repeated():
    mix = Mix([Source(400, 400), Source(400, 400)], [(0, [1.0, 0.0]), (300, [0.25, 0.75]), (500, [0.0, 1.0])])
    places = walked(mix, 800)
    parts = [places[:300], places[300:500], places[500:]]
    assert [sum(source for source, _ in part) for part in parts] == [0, 150, 300]
    for which in (0, 1):
        given = [nth for source, nth in places if source == which]
        assert given == list(range(len(given)))


def test_a_cap_that_is_reached_just_where_a_stage_begins():
    mix = Mix([Source(10, 10, 10), Source(10, 10)], [(0, [0.5, 0.5]), (20, [0.9, 0.1])])
    assert {source for source, _ in walked(mix, 60)[20:]} == {1}
    assert sum(source == 0 for source, _ in walked(mix, 60)) == 10


def test_a_place_far_away_takes_no_walk_to_it():
    sources = [Source(10**9 + 7, 10**12, 3 * 10**9), Source(10**8, 10**10)]
    mix = Mix(sources, [(0, [0.7, 0.3]), (10**10, [0.1, 0.9])])
    source, nth = mix.place(2 * 10**11)
    last = mix.stretches[-1]
    assert nth == last.given[source] + counted(last.shares, 2 * 10**11 - last.first)[source]
    assert (source, last.given[0]) == (1, 3 * 10**9)

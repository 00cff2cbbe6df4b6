"""Span corruption: seqio's lengths and masks, and nothing of the text lost between source and target."""

import numpy as np
import pytest

from llmkit.data.draws import keyed
from llmkit.data.noise.span import Span, noise_lengths, random_parts, row_lengths
from llmkit.errors import ConfigError


def noise(tokenizer, seq_len=64, **settings):
    return Span(Span.Settings(**settings), tokenizer, seq_len)


@pytest.mark.parametrize(
    ("source_len", "density", "mean_span", "expected"),
    [
        (512, 0.15, 3.0, (568, 114)),
        (256, 0.15, 3.0, (284, 58)),
        (128, 0.15, 3.0, (141, 29)),
        (512, 0.5, 3.0, (766, 512)),
    ],
)
def test_lengths_are_those_of_t5(source_len, density, mean_span, expected):
    """(568, 114) for 512 is in every T5 configuration; the others are seqio's random_spans_helper by hand."""
    assert row_lengths(source_len, density, mean_span) == expected


def plain(n, density, mean_span, source_len):
    """random_spans_helper as it is written in seqio: the largest n whose source fits."""
    for length in range(source_len, 4 * source_len):
        tokens = round((length + 1) * density)
        if (length + 1) - tokens + round(tokens / mean_span) + 1 > source_len:
            return length


@pytest.mark.parametrize("source_len", [32, 100, 256, 511, 1024])
@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.3, 8.0), (0.5, 3.0)])
def test_the_text_is_the_longest_whose_source_fits(source_len, density, mean_span):
    n, target = row_lengths(source_len, density, mean_span)
    expected = plain(n, density, mean_span, source_len)
    assert n in (expected, expected - 1) if density == 0.5 else n == expected
    tokens, spans = noise_lengths(n, density, mean_span)
    assert target == tokens + spans + 1
    assert n - tokens + spans + 1 <= source_len


@pytest.mark.parametrize("n", [2, 3, 7, 20, 64])
def test_source_and_target_hold_the_text_and_have_the_lengths_that_packing_counts_on(special, n):
    span = noise(special)
    ids = np.array([(i * 7) % 80 + 300 for i in range(n)])
    for sample in range(20):
        piece = span(ids, special.bos, keyed(1, sample, 0))
        assert (len(piece["source"]), len(piece["labels"])) == span.size(n)
        assert restored(special, piece) == ids.tolist()
        assert piece["source"][-1] == piece["labels"][-1] == special.eos
        assert piece["tokens"].tolist() == [special.pad, *piece["labels"][:-1]]


def restored(tokenizer, piece) -> list[int]:
    """The text again, put together as a reader would: each sentinel of the source for what follows it."""
    sentinels = {i for text, i in tokenizer.specials.items() if text.startswith("<extra_id_")}
    spans: dict[int, list[int]] = {}
    for token in piece["labels"][:-1].tolist():
        if token in sentinels:
            now = spans.setdefault(token, [])
        else:
            now.append(token)
    source = piece["source"][:-1].tolist()
    assert [t for t in source if t in sentinels] == list(spans)  # <extra_id_0>, <extra_id_1>, ... in both
    return [t for token in source for t in spans.get(token, [token])]


def test_spans_are_numbered_and_sentinels_belong_to_none(special):
    piece = noise(special)(np.arange(300, 360), special.bos, keyed(1, 1, 0))
    sentinel = np.isin(piece["labels"], list(special.specials.values())) | (piece["labels"] == special.eos)
    assert (piece["spans"][sentinel] == 0).all()
    assert set(piece["spans"][~sentinel]) == set(range(1, noise_lengths(60, 0.15, 3.0)[1] + 1))


def test_every_way_of_cutting_is_equally_likely():
    """4 items in 2 parts: 1+3, 2+2 and 3+1, each a third of the time."""
    counts = np.bincount([random_parts(4, 2, keyed(0, i, 0))[0] for i in range(3000)])[1:]
    assert counts == pytest.approx([1000] * 3, abs=5 * 26)


def test_too_few_sentinels_are_refused_with_the_number_that_is_needed(special):
    with pytest.raises(ConfigError, match="data.noise: 28 pieces <extra_id_N> are needed .* has 20"):
        noise(special, seq_len=512)

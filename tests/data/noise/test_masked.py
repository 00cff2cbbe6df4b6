"""Masking: the right share, 80/10/10 of it, whole words if asked for, labels exactly where it was chosen."""

import numpy as np
import pytest
from pydantic import ValidationError

from llmkit.data.draws import keyed
from llmkit.data.noise.masked import Masked
from llmkit.data.words import word_starts
from llmkit.errors import ConfigError
from tests.data.conftest import LICENCE


def noise(tokenizer, seq_len=128, **settings):
    return Masked(Masked.Settings(**settings), tokenizer, seq_len)


@pytest.fixture(scope="module")
def ids(special):
    return np.array(special.encode(LICENCE.replace("\n", " ")))


@pytest.mark.parametrize("rate", [0.15, 0.3])
@pytest.mark.parametrize("whole_words", [False, True])
def test_the_share_of_labels_is_the_rate(special, ids, rate, whole_words):
    masked = noise(special, rate=rate, whole_words=whole_words)
    labels = [masked(ids[i : i + 100], 1, keyed(1, i, 0))["labels"] for i in range(0, 3000, 100)]
    counts = [(row >= 0).sum() for row in labels]
    assert np.mean(counts) == pytest.approx(100 * rate, rel=0.04 if whole_words else 0.001)
    if not whole_words:
        assert set(counts) == {round(100 * rate)}


def test_of_the_chosen_eighty_are_masks_ten_others_and_ten_unchanged(special, ids):
    masked = noise(special, rate=0.3)
    fate = np.zeros(3)
    for sample in range(100):
        piece = masked(ids[:400], 1, keyed(1, sample, 0))
        chosen = piece["labels"] >= 0
        now, was = piece["tokens"][chosen], piece["labels"][chosen]
        mask = now == special.specials["[MASK]"]
        fate += mask.sum(), (~mask & (now != was)).sum(), (now == was).sum()
    assert fate.sum() == 12_000
    assert fate / fate.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.012)  # 4 standard deviations


def test_what_was_not_chosen_is_as_it_was_and_no_control_piece_is_made(special, ids):
    masked = noise(special, rate=0.3, mask_frac=0.0, random_frac=1.0)
    piece = masked(ids[:100], 1, keyed(1, 2, 3))
    tokens, labels = piece["tokens"], piece["labels"]
    assert (tokens[0], tokens[-1], labels[0], labels[-1]) == (special.bos, special.eos, -100, -100)
    assert np.array_equal(np.where(labels >= 0, labels, tokens)[1:-1], ids[:100])
    assert not set(tokens[1:-1].tolist()) & {
        *special.specials.values(),
        special.bos,
        special.eos,
        special.pad,
    }


def test_a_word_is_chosen_with_all_its_pieces_or_not_at_all(special, ids):
    word = np.cumsum(word_starts(special)(ids[:120]))
    assert word[-1] < len(word) - 10  # some words have several pieces
    halves = 0
    for sample in range(20):
        for whole_words in (True, False):
            labels = noise(special, whole_words=whole_words)(ids[:120], 1, keyed(1, sample, 0))["labels"][
                1:-1
            ]
            chosen = labels >= 0
            split = len(set(word[chosen]) & set(word[~chosen]))
            assert not (whole_words and split)
            halves += split
    assert halves  # which the test would have seen


def test_words_begin_behind_spaces_and_at_punctuation(special):
    text = "the Work, or (any) licensed"
    ids = np.array(special.encode(text))
    starts = np.flatnonzero(word_starts(special)(ids))
    words = [special.decode(part) for part in np.split(ids, starts[1:])]
    words = [word.strip() for word in words if word.strip()]
    assert words == [
        "the",
        "Work",
        ",",
        "or",
        "(",
        "any",
        ")",
        "licensed",
    ]


def test_a_tokenizer_without_a_mask_is_refused(tokenizer_dir):
    from llmkit.tokenizer.vocabulary import Tokenizer

    with pytest.raises(ConfigError, match=r"data.noise: the tokenizer .* has no piece \[MASK\]"):
        noise(Tokenizer.load(tokenizer_dir))


def test_shares_of_more_than_one_are_refused():
    with pytest.raises(ValidationError, match="more than 1 together"):
        Masked.Settings(mask_frac=0.9, random_frac=0.2)

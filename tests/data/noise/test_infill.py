"""BART's noise: Poisson spans of the right share, sentences shuffled whole, and the text as the target."""

import numpy as np
import pytest

from llmkit.data.draws import keyed
from llmkit.data.noise.infill import Infill, poisson_table
from tests.data.conftest import LICENCE


def noise(tokenizer, seq_len=128, **settings):
    return Infill(Infill.Settings(**settings), tokenizer, seq_len)


def test_lengths_of_spans_are_poisson():
    table = poisson_table(3.0)
    drawn = np.searchsorted(table, keyed(1, 1, 1).uniform(50_000), "right")
    assert drawn.mean() == pytest.approx(3.0, abs=0.04)
    assert drawn.var() == pytest.approx(3.0, abs=0.1)
    assert (drawn == 0).mean() == pytest.approx(np.exp(-3), abs=0.005)


@pytest.mark.parametrize("n", [2, 5, 40, 126])
def test_masks_stand_for_the_rate_of_the_tokens_and_the_rest_is_in_order(special, n):
    infill = noise(special, permute=False)
    ids, mask = np.arange(n) + 200, special.specials["[MASK]"]
    for sample in range(30):
        piece = infill(ids, special.bos, keyed(1, sample, 0))
        body = piece["source"][1:-1]
        kept = body[body != mask]
        assert len(kept) == n - min(max(round(0.3 * n), 1), n - 1)
        assert (np.diff(kept) > 0).all()
        assert not ((body[1:] == mask) & (body[:-1] == mask)).any()
        assert len(piece["source"]) <= infill.size(n)[0]
        assert piece["labels"].tolist() == [special.bos, *ids, special.eos]
        assert piece["tokens"].tolist() == [special.eos, *piece["labels"][:-1]]


def test_some_spans_are_empty_and_the_mean_length_is_about_the_poissons(special):
    infill = noise(special)
    lengths = np.concatenate([infill.lengths(120, keyed(1, sample, 0)) for sample in range(300)])
    assert lengths.mean() == pytest.approx(3.0, abs=0.25)  # the last of each is cut to fit
    assert (lengths == 0).mean() == pytest.approx(0.05, abs=0.02)


def test_sentences_are_moved_whole(special):
    infill = noise(special)
    ids = np.array(special.encode("One here. Two there! Three? Four"))
    sentences = ["One here.", "Two there!", "Three?", "Four"]
    orders = set()
    for sample in range(30):
        moved = special.decode(infill.permuted(ids, keyed(1, sample, 0)))
        assert len(moved) == len("One here. Two there! Three? Four")
        assert all(sentence in moved for sentence in sentences)
        orders.add(moved)
    assert len(orders) > 12  # of 24


def test_one_sentence_stays(special):
    ids = np.array(special.encode(LICENCE[:30].replace("\n", " ").replace(".", " ")))
    assert noise(special).permuted(ids, keyed(1, 1, 1)).tolist() == ids.tolist()

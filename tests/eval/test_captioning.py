"""The figures of captions: words in common, whose image is shuffled with whose, intervals of whole groups."""

import numpy as np
import pytest

from llmkit.errors import DataError
from llmkit.eval import captioning as texts
from llmkit.eval.metrics import captioning
from llmkit.eval.statistics import bootstrap


def test_word_f1_counts_words_in_common():
    assert texts.word_f1("A red heart", "red heart, a") == 1
    assert texts.word_f1("man, man, girl", "man, woman, girl") == pytest.approx(2 / 3)
    assert texts.word_f1("red", "red heart") == pytest.approx(2 / 3)
    assert texts.word_f1("", "red") == texts.word_f1("blue", "red") == 0


def test_no_image_is_given_one_of_its_own_group_and_each_is_given_once():
    groups = np.array([3, 0, 0, 0, 1, 1, 2, 3, 0, 4])
    other = captioning.elsewhere(groups)
    assert sorted(other) == list(range(10))
    assert (groups[other] != groups).all()
    with pytest.raises(DataError, match="more than half belong together"):
        captioning.elsewhere(np.array([0, 0, 0, 1]))


def test_an_interval_of_groups_is_as_wide_as_one_of_that_many_images():
    """Sixfold copies are no new images: the interval stays; resampled one by one it would shrink."""
    values = np.random.default_rng(0).normal(size=60)
    groups = np.repeat(np.arange(60), 6)
    once = captioning.clustered(values, np.arange(60))
    copies = captioning.clustered(np.repeat(values, 6), groups)
    assert (copies.value, copies.low, copies.high) == pytest.approx((once.value, once.low, once.high))
    alone = bootstrap(np.repeat(values, 6))
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


def test_the_central_caption_is_the_one_nearest_to_all():
    assert captioning.central(("red heart", "blue heart", "heart", "green car")) == "heart"

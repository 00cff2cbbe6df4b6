"""Captions as sets of words: which words are known, and what a caption becomes."""

import numpy as np
import pytest

from llmkit.data.captions import numbered, vocabulary, words
from llmkit.errors import ConfigError


def test_words_are_what_is_between_marks_and_spaces_once_each():
    assert words("Red heart, red: 火山's") == ["red", "heart", "火山", "s"]


def test_words_of_one_caption_only_are_not_known_and_the_most_frequent_come_first():
    assert vocabulary(["a red cat", "a cat cat cat", "a dog", "red"]) == ("a", "cat", "red")
    with pytest.raises(ConfigError, match="no word stands in 2 captions"):
        vocabulary(["one", "two"])


def test_a_caption_is_the_places_of_its_known_words():
    found = numbered(["a cat!", "the dog", "cat a cat red"], ("a", "cat", "red"))
    assert found.tolist() == [[1, 2, 0], [0, 0, 0], [2, 1, 3]]
    assert found.dtype == np.int64
    assert numbered([""], ("a",)).shape == (1, 1)
    assert numbered(["a"], ("a",), 4).tolist() == [[1, 0, 0, 0]]

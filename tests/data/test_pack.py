import random

import numpy as np

from llmkit.data.pack import best_fit, lay, shifted


def test_every_item_is_in_one_row_and_no_row_is_overfull():
    lengths = [random.Random(n).randrange(1, 65) for n in range(2000)]
    rows = best_fit(lengths, 64)
    assert sorted(item for row in rows for item in row) == list(range(2000))
    assert max(sum(lengths[item] for item in row) for row in rows) <= 64


def test_mixed_lengths_leave_hardly_any_padding():
    lengths = [random.Random(n).randrange(1, 40) for n in range(2000)]
    assert sum(lengths) / (64 * len(best_fit(lengths, 64))) > 0.99


def test_a_document_is_labelled_with_its_own_next_tokens_where_they_are_learned():
    tokens, labels = shifted([5, 6, 7, 8], [0, 0, 1, 1])
    assert tokens.tolist() == [5, 6, 7, 8]
    assert labels.tolist() == [-100, 7, 8, -100]


def test_documents_of_a_row_are_segments_and_the_rest_is_padding():
    one, two = shifted([5, 6, 7], [0, 1, 1]), shifted([8, 9], [0, 1])
    batch = lay([[one, two], [two]], seq_len=6, pad=3)
    assert batch["tokens"].tolist() == [[5, 6, 7, 8, 9, 3], [8, 9, 3, 3, 3, 3]]
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[6, 7, -100, 9, -100, -100], [9, -100, -100, -100, -100, -100]]


def test_no_rows_are_one_row_of_padding():
    batch = lay([], seq_len=4, pad=3)
    assert {key: value.shape for key, value in batch.items()} == dict.fromkeys(batch, (1, 4))
    assert np.all(batch["segments"].numpy() == 0)
    assert np.all(batch["labels"].numpy() == -100)

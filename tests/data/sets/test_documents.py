"""Rows of packed documents: every token in one piece, both sides in step, noise that the sample decides."""

import numpy as np
import pytest
import torch

from llmkit.data.loader import Loader
from llmkit.data.sets.documents import Documents
from llmkit.errors import DataError

NOISES = {
    "none": {},
    "prefix": {},
    "fim": {},
    "masked": {"rate": 0.3, "whole_words": True},
    "span": {},
    "infill": {},
}


def opened(shards, noise="none", split="train", seq_len=48, seed=3, **more):
    noise = {"name": noise, **NOISES[noise]}
    return Documents(Documents.Settings(shards=shards, seq_len=seq_len, noise=noise, **more), split, seed)


def every_row(dataset):
    return dataset.batch([(i, i) for i in range(len(dataset))])


def test_every_token_but_bos_is_a_label_once(special_shards):
    """As in the running stream; so the loss is over the same tokens, and its bytes are the corpus's."""
    dataset = opened(special_shards)
    labels = every_row(dataset)["labels"]
    corpus = dataset._corpus
    stream = corpus.read(0, corpus.num_tokens)
    expected = np.delete(stream, corpus.starts)
    assert sorted(labels[labels >= 0].tolist()) == sorted(expected.tolist())
    assert int(every_row(dataset)["bytes"].sum()) == corpus.counts["bytes"]


@pytest.mark.parametrize("noise", NOISES)
def test_counts_say_where_every_token_and_position_went(special_shards, noise):
    dataset = opened(special_shards, noise)
    counts, batch = dataset.counts, every_row(dataset)
    assert counts["rows"] == len(dataset)
    pieces = int(sum(row.max() for row in batch["segments"]))
    assert counts["pieces"] == pieces
    alone = 0 if dataset.noise.shortest == 1 else 1  # the document "a" is one token, of no use to these
    assert counts["cropped_tokens"] == alone
    if noise in ("none", "prefix", "masked", "span"):  # their sizes are exact; the others' are bounds
        assert counts["padded_positions"] == int((batch["segments"] == 0).sum())
    if noise == "span":
        assert counts["padded_source_positions"] == int((batch["source_segments"] == 0).sum())
        used = 1 - counts["padded_source_positions"] / batch["source"].numel()
        assert used > 0.9


@pytest.mark.parametrize("noise", ["span", "infill"])
def test_both_sides_of_a_row_hold_the_same_documents_in_the_same_segments(special_shards, noise):
    dataset = opened(special_shards, noise)
    batch = every_row(dataset)
    assert batch["source"].shape == batch["source_segments"].shape == (len(dataset), 48)
    several = 0
    for row in range(len(dataset)):
        segments = set(batch["segments"][row].tolist()) - {0}
        assert segments == set(batch["source_segments"][row].tolist()) - {0}
        several += len(segments) > 1
        for segment in segments:
            here = dataset._rows[row][segment - 1]
            n = int(dataset._lengths[here])
            sizes = [int((batch[key][row] == segment).sum()) for key in ("source_segments", "segments")]
            assert sizes[1] == dataset.noise.size(n)[1]
            assert sizes[0] <= dataset.noise.size(n)[0]
    assert several


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_ranks_sees_the_same_rows_and_noise(special_shards, noise, world):
    whole = Loader(opened(special_shards, noise), 6, 6, 0, 1, seed=3).group(7)[0]
    parts = [
        Loader(opened(special_shards, noise), 6, 6 // world, r, world, seed=3).group(7) for r in range(world)
    ]
    joined = {key: torch.cat([part[0][key] for part in parts]) for key in whole}
    assert all(torch.equal(whole[key], joined[key]) for key in whole)


@pytest.mark.parametrize("noise", ["masked", "span", "infill", "prefix", "fim"])
def test_the_noise_is_another_every_epoch_and_the_same_in_every_evaluation(special_shards, noise):
    train = opened(special_shards, noise)
    n = len(train)
    first, again, later = (train.batch([(sample, 0)]) for sample in (5, 5, 5 + n))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], later[key]) for key in first)
    one, two = (every_row(opened(special_shards, noise, "heldout", seed=seed)) for seed in (1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(
        first["labels"], opened(special_shards, noise, seed=4).batch([(5, 0)])["labels"]
    ) or any(
        not torch.equal(first[key], opened(special_shards, noise, seed=4).batch([(5, 0)])[key])
        for key in first
    )


@pytest.mark.parametrize("noise", NOISES)
def test_a_batch_without_rows_is_one_row_of_padding_with_the_same_keys(special_shards, noise):
    dataset = opened(special_shards, noise)
    empty, full = dataset.batch([]), dataset.batch([(0, 0)])
    assert {k: (v.shape, v.dtype) for k, v in empty.items()} == {
        k: (v.shape, v.dtype) for k, v in full.items()
    }
    assert int(empty["segments"].sum()) == 0
    assert (empty["labels"] == -100).all()


def test_without_packing_every_piece_has_a_row(special_shards):
    dataset = opened(special_shards, pack=False)
    assert int(every_row(dataset)["segments"].max()) == 1
    assert len(dataset) == dataset.counts["pieces"]


def test_a_corpus_of_documents_that_are_all_too_short_is_refused(tmp_path, special_dir):
    from tests.data.conftest import sharded

    shards = sharded(tmp_path, special_dir, ["a"], ["a"])
    with pytest.raises(DataError, match="no train document has 2 tokens"):
        opened(shards, "span")

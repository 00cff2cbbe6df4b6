"""Bits per byte and its relatives against plain loops and published values."""

import json
import math

import numpy as np
import pytest
import torch

from llmkit.errors import ConfigError, DataError
from llmkit.eval import scoring
from llmkit.eval.metrics.bits_per_byte import BitsPerByte, blocks, perplexities, window_nll
from llmkit.eval.ngram import KneserNey


def test_perplexities_have_the_conventional_values():
    """Two texts of 10 and 6 nats, 5 and 2 tokens, 3 and 1 words, 20 and 8 bytes."""
    figures = perplexities(16.0, tokens=7, words=4, size=28)
    assert figures["token_perplexity"] == pytest.approx(9.8327, abs=5e-5)
    assert figures["word_perplexity"] == pytest.approx(54.5982, abs=5e-5)
    assert figures["byte_perplexity"] == pytest.approx(1.7708, abs=5e-5)
    assert figures["bits_per_byte"] == pytest.approx(0.8243972, abs=5e-8)
    texts = [perplexities(10.0, 5, 3, 20), perplexities(6.0, 2, 1, 8)]
    each = np.array([text["token_perplexity"] for text in texts])
    assert each.mean() == pytest.approx(13.7373, abs=5e-5)  # what `evaluate` prints, which is another figure
    assert np.exp(np.log(each).mean()) == pytest.approx(12.1825, abs=5e-5)  # and DeepSpeed-Chat


@torch.no_grad()
def test_every_token_is_scored_once_given_its_own_window_and_one_token_of_carry(opened):
    ids, window = np.arange(4, 60), 16
    found = window_nll(opened.net, ids, window)
    for t in range(1, len(ids)):
        start = (t - 1) // window * window
        logits = opened.net.logits(opened.net.hidden(torch.tensor(ids[None, start:t])))[0, -1]
        assert found[t - 1] == pytest.approx(-logits.log_softmax(-1)[ids[t]].item(), abs=1e-5)


def test_the_number_of_windows_in_a_batch_changes_nothing(opened, monkeypatch):
    ids = np.arange(4, 150)
    together = window_nll(opened.net, ids, 16)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 16)
    assert window_nll(opened.net, ids, 16) == pytest.approx(together, abs=1e-5)


def test_blocks_of_the_text_add_up_to_the_whole():
    nll, sizes = np.linspace(1, 3, 5000), np.resize([3, 1, 4, 2], 5000)
    rows = blocks(nll, sizes, "digest")
    assert sum(row["weight"] for row in rows) == sizes.sum()
    assert sum(row["value"] * row["weight"] for row in rows) == pytest.approx(nll.sum() / math.log(2))
    assert len(rows) == math.ceil(sizes.sum() / 4096)


def test_the_figure_is_the_plain_sum_over_the_bytes_of_the_file(opened, world):
    text = (world / "data" / "heldout.txt").read_text()
    found = (
        BitsPerByte(BitsPerByte.Settings(text=str(world / "data" / "heldout.txt"))).measure(opened).figures
    )
    ids = np.array([opened.tokenizer.bos, *opened.tokenizer.encode(text)])
    nll = window_nll(opened.net, ids, opened.net.settings.context)
    assert found["bits_per_byte"] == pytest.approx(nll.sum() / math.log(2) / len(text.encode()))
    assert found["ci95"][0] < found["bits_per_byte"] < found["ci95"][1]
    assert found["window"] == found["stride"] == 96


def test_baselines_see_the_training_text_and_are_ranked(opened, world):
    data = world / "data"
    settings = {"text": str(data / "heldout.txt"), "baselines": True, "train_text": str(data / "train.jsonl")}
    found = BitsPerByte(BitsPerByte.Settings(**settings)).measure(opened).figures
    assert list(found["baseline"]) == ["xz", "bz2", "unigram", "kn2", "kn3", "kn4"]
    assert sorted(found["beats"] + found["loses_to"]) == sorted(found["baseline"])
    assert all(found["bits_per_byte"] < found["baseline"][name] for name in found["beats"])
    assert found["baseline"]["unigram"] < 2.5
    raw = "\n\n".join(json.loads(line)["text"] for line in (data / "train.jsonl").open())
    assert found["baseline_train_bytes"] == len(raw.encode())


def test_documents_are_predicted_one_by_one(opened, world):
    data = world / "data"
    settings = {
        "text": str(data / "heldout.jsonl"),
        "baselines": True,
        "train_text": str(data / "train.jsonl"),
    }
    measured = BitsPerByte(BitsPerByte.Settings(**settings)).measure(opened)
    found, texts = measured.figures, [json.loads(line)["text"] for line in (data / "heldout.jsonl").open()]
    assert len(texts) > 5
    ids = [np.array([opened.tokenizer.bos, *opened.tokenizer.encode(text)]) for text in texts]
    nll = sum(window_nll(opened.net, one, opened.net.settings.context).sum() for one in ids)
    size = sum(len(text.encode()) for text in texts)
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / size)
    assert found["bytes"] == size == sum(row["weight"] for row in measured.rows)
    train = [json.loads(line)["text"] for line in (data / "train.jsonl").open()]
    train = np.concatenate([[opened.tokenizer.bos, *opened.tokenizer.encode(text)] for text in train])
    stream = np.concatenate(ids)
    log2 = KneserNey(train, opened.tokenizer.vocab_size).log2_probs(stream, start=1)[2]
    assert found["baseline"]["kn2"] == pytest.approx(-log2[stream[1:] != opened.tokenizer.bos].sum() / size)
    few = BitsPerByte(BitsPerByte.Settings(text=settings["text"], max_bytes=1)).measure(opened).figures
    assert few["bytes"] == len(texts[0].encode()), "whole documents, one at least"


def test_a_hidden_markov_model_is_a_baseline_where_one_is_asked_for(opened, world):
    data = world / "data"
    settings = {"text": str(data / "heldout.txt"), "baselines": True, "train_text": str(data / "train.jsonl")}
    found = BitsPerByte(BitsPerByte.Settings(**settings, hmm_states=2)).measure(opened).figures
    assert found["hmm"]["states"] == 2
    assert found["hmm"]["rounds"] > 1
    assert found["hmm"]["train_tokens"] <= found["baseline_train_tokens"]
    assert "hmm" in found["beats"] + found["loses_to"]
    assert found["baseline"]["hmm"] < found["baseline"]["unigram"]


def test_unusable_texts_are_named(opened, tmp_path):
    def measure(**settings):
        return BitsPerByte(BitsPerByte.Settings(**settings)).measure(opened)

    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        measure(text=str(tmp_path / "empty.txt"))
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 text at byte 3"):
        measure(text=str(tmp_path / "latin.txt"))
    with pytest.raises(DataError, match=r"none\.jsonl: holds no document"):
        measure(text=str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"gone\.txt: there is no such text file"):
        measure(text=str(tmp_path / "gone.txt"))
    with pytest.raises(ConfigError, match="train_text: the baselines need"):
        measure(text=str(tmp_path / "latin.txt"), baselines=True)

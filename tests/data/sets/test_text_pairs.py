import pytest
import torch

from llmkit.data.sets.text_pairs import TextPairs
from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected

PAIRS = [
    {"id": "1", "input": "What is the opposite of hot?", "target": "cold"},
    {"id": "2", "input": "Count the words.", "target": "There are three."},
    {"id": "3", "input": "Name the capital.", "target": " "},
]


def opened(folder, records, tokenizer, **settings):
    data = collected(folder / "data", records)
    return TextPairs(TextPairs.Settings(data=data, tokenizer=tokenizer, **settings), "train", seed=1)


def test_target_segment_i_is_what_source_segment_i_asks_for(tmp_path, tokenizer):
    data, loaded = opened(tmp_path, PAIRS, tokenizer, seq_len=64), Tokenizer.load(tokenizer)
    batch = data.batch([(row, row) for row in range(len(data))])
    found = {}
    for row in range(len(data)):
        for number in range(1, int(batch["segments"][row].max()) + 1):
            here, there = batch["segments"][row] == number, batch["source_segments"][row] == number
            tokens, labels = batch["tokens"][row][here], batch["labels"][row][here]
            assert tokens[0] == loaded.pad
            assert tokens[1:].tolist() == labels[:-1].tolist()
            assert labels[-1] == loaded.eos == batch["source"][row][there][-1]
            found[loaded.decode(batch["source"][row][there])] = loaded.decode(labels)
    assert found == {r["input"]: r["target"] for r in PAIRS[:2]}
    assert data.counts["dropped_empty"] == 1


def test_labels_are_written_as_text(tmp_path, tokenizer):
    records = [
        {"id": "1", "text": "Some words.", "pair": "words", "label": "nns"},
        {"id": "2", "text": "About money.", "label": ["money", "sport"]},
        {"id": "3", "text": "About nothing.", "label": []},
    ]
    data, loaded = opened(tmp_path, records, tokenizer, seq_len=64, pack=False), Tokenizer.load(tokenizer)
    found = {}
    for row in range(len(data)):
        batch = data.batch([(row, row)])
        said = batch["labels"][0][batch["labels"][0] >= 0]
        found[loaded.decode(batch["source"][0][batch["source_segments"][0] > 0])] = loaded.decode(said)
    assert found == {"words\nSome words.": "nns", "About money.": "money, sport"}
    assert data.counts["dropped_empty"] == 1


def test_a_cloze_asks_as_span_corruption_does(tmp_path, tokenizer):
    data = opened(tmp_path, PAIRS[:1], tokenizer, cloze=True, seq_len=8)
    loaded = Tokenizer.load(tokenizer)
    gap, batch = loaded.specials["<extra_id_0>"], data.batch([(0, 0)])
    target = [gap, *loaded.encode("cold"), loaded.eos]
    assert batch["labels"][0][: len(target)].tolist() == target
    assert batch["tokens"][0][: len(target)].tolist() == [loaded.pad, *target[:-1]]
    text = loaded.encode(PAIRS[0]["input"])
    assert len(text) > 6
    assert batch["source"][0].tolist() == [*text[:6], gap, loaded.eos]
    assert data.counts["cut"] == 1


def test_a_cloze_is_refused_where_the_decoder_begins_otherwise(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="data.cloze"):
        opened(tmp_path, PAIRS, tokenizer, cloze=True, start="eos")


def test_a_decoder_learns_the_target_alone(tmp_path, tokenizer):
    data, loaded = (
        opened(tmp_path, PAIRS[:1], tokenizer, net="decoder", seq_len=64),
        Tokenizer.load(tokenizer),
    )
    batch = data.batch([(0, 0)])
    labelled = batch["labels"][0] >= 0
    assert batch["labels"][0][labelled].tolist() == [*loaded.encode("cold"), loaded.eos]
    first = int(labelled.nonzero()[0, 0])
    asked = [loaded.bos, *loaded.encode(PAIRS[0]["input"]), loaded.eos]
    assert batch["tokens"][0][: first + 1].tolist() == asked
    assert torch.equal(batch["labels"][0][labelled][:-1], batch["tokens"][0][1:][labelled[:-1]][:-1])


def test_long_inputs_lose_their_end_and_long_targets_are_dropped_and_counted(tmp_path, tokenizer):
    records = [dict(PAIRS[0], input="word " * 60), dict(PAIRS[1], target="many words " * 40)]
    for net in ("encdec", "decoder"):
        data = opened(tmp_path, records, tokenizer, net=net, seq_len=32, target_len=12)
        assert (data.counts["cut"], data.counts["dropped_target_too_long"]) == (1, 1)
        assert data.batch([(0, 0)])["labels"][0].max() >= 0
    with pytest.raises(DataError, match="no train pair fits"):
        opened(tmp_path, records[1:], tokenizer, seq_len=32)

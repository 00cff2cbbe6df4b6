import pytest
import torch

from llmkit.data.sets.labelled import Labelled, cut
from llmkit.data.sets.tagged import Tagged
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected

TEXTS = [
    {"id": "1", "text": "What is the opposite of hot?", "label": "spam"},
    {"id": "2", "text": "Count the words.", "label": "ham"},
    {"id": "3", "text": "Name the capital of France.", "label": "ham"},
]
SENTENCES = [
    {"id": "1", "tokens": ["Angela", "Merkel", "spoke", "."], "tags": ["B-person", "I-person", "O", "O"]},
    {"id": "2", "tokens": ["Count", "words"], "tags": ["O", "O"]},
]


def opened(cls, folder, records, tokenizer, split="train", **settings):
    data = collected(folder / "data", records)
    return cls(cls.Settings(data=data, tokenizer=tokenizer, **settings), split, seed=1)


def texts_in(batch, tokenizer):
    """(text, label) of everything that is marked as valid, read between its start and its end."""
    decode = Tokenizer.load(tokenizer).decode
    for b, p in batch["valid"].nonzero().tolist():
        start, end = batch["starts"][b, p], batch["ends"][b, p]
        assert batch["segments"][b, start : end + 1].unique().tolist() == [p + 1]
        yield decode(batch["tokens"][b, start : end + 1]), batch["label"][b, p].tolist()


def test_every_text_stands_between_its_start_and_its_end_with_its_label(tmp_path, tokenizer):
    data = opened(Labelled, tmp_path, TEXTS, tokenizer, seq_len=64)
    batch = data.batch([(row, row) for row in range(len(data))])
    assert data.labels == ["ham", "spam"]
    found = sorted(texts_in(batch, tokenizer))
    assert found == sorted((r["text"], data.labels.index(r["label"])) for r in TEXTS)
    assert (data.batch([])["valid"].shape[0], data.batch([])["valid"].any()) == (1, False)


def test_several_labels_are_marked_each(tmp_path, tokenizer):
    several = [dict(r, label=labels) for r, labels in zip(TEXTS, (["a", "b"], [], ["b"]), strict=True)]
    data = opened(Labelled, tmp_path, several, tokenizer, seq_len=64)
    assert data.several
    found = dict(texts_in(data.batch([(row, row) for row in range(len(data))]), tokenizer))
    assert [found[r["text"]] for r in TEXTS] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_a_pair_is_framed_as_the_exported_tokenizer_frames_it(tmp_path, tokenizer):
    from tokenizers import Tokenizer as Fast

    record = dict(TEXTS[0], pair="A pair.")
    data = opened(Labelled, tmp_path, [record, TEXTS[1]], tokenizer, seq_len=64)
    fast = Fast.from_file(f"{tokenizer}/tokenizer.json")
    wanted = fast.encode(record["text"], record["pair"]).ids
    assert wanted in [text.tokens.tolist() for text in data.texts]
    assert fast.encode(TEXTS[1]["text"]).ids in [text.tokens.tolist() for text in data.texts]


@pytest.mark.parametrize(
    ("sizes", "kept"), [((9, 9), (5, 5)), ((2, 9), (2, 8)), ((9, 2), (8, 2)), ((3, 4), (3, 4))]
)
def test_of_two_texts_the_longer_one_is_cut(sizes, kept):
    assert tuple(map(len, cut([list(range(n)) for n in sizes], 10))) == kept


@pytest.mark.parametrize(
    ("cls", "records", "settings", "line"),
    [
        (Labelled, TEXTS, {"labels": ["ham", "eggs"]}, "record 1 has the label 'spam', which is none of ham"),
        (Labelled, TEXTS[1:], {}, "has the label ham alone"),
        (Labelled, [{"id": "7", "text": "x"}], {}, "record 7 has no label"),
        (Labelled, [dict(TEXTS[0], text=" "), dict(TEXTS[1], text="")], {}, "no train text that is of use"),
        (Tagged, SENTENCES, {"labels": ["O"]}, "'B-person', which is none of O"),
        (Tagged, [dict(SENTENCES[0], tags=["O", "B-x"])], {}, "4 tokens and 2 tags"),
    ],
)
def test_what_cannot_be_learnt_from_is_told_in_one_line(tmp_path, tokenizer, cls, records, settings, line):
    with pytest.raises(DataError, match=line) as caught:
        opened(cls, tmp_path, records, tokenizer, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cls", "records"), [(Labelled, TEXTS), (Tagged, SENTENCES)])
def test_held_out_texts_that_are_trained_on_are_found(tmp_path, tokenizer, cls, records):
    with pytest.raises(DataError, match="held-out record 1 is among the training ones too"):
        opened(cls, tmp_path, records, tokenizer, "heldout")
    assert len(opened(cls, tmp_path, records, tokenizer, "heldout", overlap="keep").texts) == len(records)
    with pytest.raises(DataError, match="of use|fits into"):
        opened(cls, tmp_path, records, tokenizer, "heldout", overlap="drop")


def test_a_tag_stands_at_the_first_piece_of_its_word_alone(tmp_path, tokenizer):
    data = opened(Tagged, tmp_path, SENTENCES, tokenizer, seq_len=64)
    encode = Tokenizer.load(tokenizer).encode
    sentence = next(text for text in data.texts if text.id == "1")
    words = ["Angela", " Merkel", " spoke", " ."]
    lengths = [len(encode(word)) for word in words]
    assert max(lengths) > 1
    whole = encode("".join(words))
    assert sentence.tokens.tolist()[-len(whole) :] == whole
    expected = [data.labels.index(tag) for tag in SENTENCES[0]["tags"]]
    first = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths) + len(sentence.tokens) - len(whole)
    assert sentence.labels[first].tolist() == expected
    assert (sentence.labels >= 0).sum() == len(words)


def test_a_long_sentence_is_cut_behind_a_whole_word_and_counted(tmp_path, tokenizer):
    long = {"id": "3", "tokens": ["opposite"] * 30, "tags": ["O"] * 29 + ["B-x"]}
    data = opened(Tagged, tmp_path, [long], tokenizer, seq_len=16)
    size = len(Tokenizer.load(tokenizer).encode(" opposite"))
    (sentence,) = data.texts
    assert 0 < sentence.words < 30
    assert data.counts["words_cut"] == 30 - sentence.words
    assert len(sentence.tokens) <= 16 < len(sentence.tokens) + size

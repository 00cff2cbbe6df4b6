"""Training: no byte lost in silence, the same result every time, and errors that say what to set."""

import json

import pytest

from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer import lines, train
from llmkit.tokenizer.check import NASTY
from llmkit.tokenizer.lines import BLOCK_BYTES, LINE_BYTES, Lines, chunks, shares
from llmkit.tokenizer.train import TokenizerSpec
from llmkit.tokenizer.vocabulary import Tokenizer


def given(tmp_path, texts):
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"id": "1", "text": t}) + "\n" for t in texts))
    return str(tmp_path)


def test_every_difficult_string_survives_the_round_trip(trained):
    tokenizer = Tokenizer.load(trained[0])
    lost = [text for text in NASTY if tokenizer.decode(tokenizer.encode(text)) != text]
    assert all("\u2581" in text for text in lost), "only a literal U+2581 may become a space"


def test_ids_of_no_piece_give_no_text(trained):
    tokenizer = Tokenizer.load(trained[0])
    ids = tokenizer.encode("one two")
    assert tokenizer.decode([tokenizer.vocab_size, *ids, 1 << 20]) == "one two"


def test_two_trainings_give_the_same_file(trained, corpus, tmp_path):
    result = train.work(TokenizerSpec(data=str(corpus), vocab_size=2000), tmp_path)
    assert result["fingerprint"] == trained[1]["fingerprint"]
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()


def test_training_ends_with_the_proof_on_a_thousand_lines(trained):
    assert trained[1]["lines"] >= 1000
    assert trained[1]["strings"] > 50
    assert trained[1]["mismatches"] == 0
    assert trained[1]["counts"]["bytes_skipped"] == 0


def test_control_tokens_come_first_and_are_not_made_of_text(trained):
    tokenizer = Tokenizer.load(trained[0])
    names = ["<s>", "</s>", "<pad>", "<|system|>", "<|end|>", "<|user|>", "<|assistant|>"]
    assert sorted(tokenizer.specials) == sorted(names)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, 3)
    controls = set(tokenizer.specials.values())
    assert not any(controls & set(tokenizer.encode(f"a {name} b")) for name in names)


def test_the_bytes_of_the_pieces_add_up_to_the_text(trained, corpus):
    tokenizer = Tokenizer.load(trained[0])
    sizes = tokenizer.piece_bytes()
    texts = [json.loads(line)["text"] for line in (corpus / "heldout.jsonl").read_text().splitlines()]
    for text in [*texts, *(t for t in NASTY if "\u2581" not in t)]:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


def test_a_vocabulary_that_the_text_cannot_give_names_the_largest_that_it_can(tmp_path):
    data = given(tmp_path, ["a few words and no more"])
    with pytest.raises(ConfigError, match=r"vocab_size: 5000 pieces .* set it to at most (\d+)") as caught:
        train.work(TokenizerSpec(data=data, vocab_size=5000), tmp_path / "out")
    largest = int(str(caught.value).split("at most ")[1].split(",")[0])
    result = train.work(TokenizerSpec(data=data, vocab_size=largest), tmp_path / "out")
    assert result["counts"]["pieces"] == largest
    with pytest.raises(ConfigError, match=f"at most {largest}"):
        train.work(TokenizerSpec(data=data, vocab_size=largest + 1), tmp_path / "out")


def test_a_ceiling_takes_what_the_text_can_give(tmp_path):
    data = given(tmp_path, ["a few words and no more"])
    result = train.work(TokenizerSpec(data=data, vocab_size=5000, at_most=True), tmp_path / "out")
    assert 270 < result["counts"]["pieces"] < 400


def test_a_vocabulary_too_small_for_the_characters_names_the_smallest(tmp_path):
    data = given(tmp_path, ["".join(chr(0x4E00 + i) for i in range(500))])
    with pytest.raises(ConfigError, match=r"set it to at least \d+"):
        train.work(TokenizerSpec(data=data, vocab_size=300), tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["one\ntwo\n\nthree", "word " * 5000, "x" * 20_000, "\u65e5\u672c" * 4000, "", "\n\n"]
)
def test_chunks_join_to_the_text_and_fit_sentencepiece(text):
    parts = list(chunks(text))
    assert "".join(parts) == text
    assert all(len(part.encode()) <= LINE_BYTES for part in parts)


def test_text_that_training_would_skip_is_an_error(tmp_path):
    good = ["a few words and no more, again and again. " * 3] * 20
    data = given(tmp_path, [*good, "a \u2585 that sentencepiece reserves"])
    with pytest.raises(DataError, match=r"32 of \d+ bytes would be skipped|bytes would be skipped"):
        train.work(TokenizerSpec(data=data, vocab_size=300), tmp_path / "out")


def test_without_cutting_lines_a_long_document_would_be_skipped(tmp_path, monkeypatch):
    """The safeguard, taken out: whole documents as sentences are lost, and that is noticed."""
    data = given(tmp_path, ["a few words and no more, again and again. " * 300, "short"])
    train.work(TokenizerSpec(data=data, vocab_size=300), tmp_path / "out")
    monkeypatch.setattr(lines, "chunks", lambda text: [text])
    with pytest.raises((DataError, ConfigError)):
        train.work(TokenizerSpec(data=data, vocab_size=300), tmp_path / "out")


def mixed(tmp_path):
    """80 kB of prose in documents of 200 bytes, 20 kB of code, and one document of 400 kB."""
    rows = [("prose", "words and no more. ".ljust(199, "w") + "\n")] * 400
    rows += [("code", "x = 1\n".ljust(100))] * 200
    rows.insert(50, ("book", ("a line of a long book\n" * 20_000)[:400_000]))
    texts = [json.dumps({"id": "1", "source": source, "text": text}) + "\n" for source, text in rows]
    (tmp_path / "train.jsonl").write_text("".join(texts))
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"prose": 16_000, "code": 4_000, "book": 80_000}),
        ({"prose": 0.7, "code": 0.1, "book": 0.2}, {"prose": 70_000, "code": 10_000, "book": 20_000}),
        ({"prose": 0.2, "code": 0.7, "book": 0.1}, {"prose": 53_333, "code": 20_000, "book": 26_667}),
        ({"prose": 1, "code": 0, "book": 0}, {"prose": 80_000, "code": 0, "book": 0}),
    ],
)
def test_a_budget_of_bytes_is_dealt_by_weight_and_what_a_small_source_leaves_goes_to_the_others(
    tmp_path, weights, expected
):
    stream = Lines(mixed(tmp_path), 100_000, weights)
    read = sum(len(line.encode()) for line in stream)
    assert read == stream.bytes == sum(stream.used.values())
    for source, wanted in expected.items():
        block = BLOCK_BYTES if source == "book" else 200
        assert abs(stream.used[source] - wanted) <= block / 2 + 1, source
    assert stream.used == (list(stream), stream.used)[1], "a second pass reads the same"


def test_weights_name_every_source_and_no_other(tmp_path):
    with pytest.raises(ConfigError, match="name every source and no other; they are book, code, prose"):
        Lines(mixed(tmp_path), 1000, {"prose": 1, "code": 1, "poetry": 1})
    assert shares({"a": 10}, {"a": 0.0}, 100) == {"a": 0.0}


def test_an_unknown_template_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no template called 'fancy'; known: .*plain"):
        train.work(TokenizerSpec(data=given(tmp_path, ["x"]), chat="fancy"), tmp_path / "out")


def test_missing_data_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl: there is no such file; run llmkit data collect"):
        train.work(TokenizerSpec(data=str(tmp_path / "nowhere")), tmp_path)

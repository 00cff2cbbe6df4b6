"""The proof of the export can fail, and does so on a single difference."""

import json
import shutil

import pytest

from llmkit.errors import DataError, ExportRefused
from llmkit.tokenizer import card, check, export
from llmkit.tokenizer.hub import HubPieces
from llmkit.tokenizer.vocabulary import Tokenizer


@pytest.fixture
def copied(trained, tmp_path):
    export.copy(trained[0], tmp_path / "copy")
    return tmp_path / "copy"


def changed(path, change):
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_a_copy_is_complete_and_proves_equal(copied, corpus):
    assert check.prove(copied, corpus)["lines"] >= 1000
    assert (copied / "tokenizer.model").is_file()
    assert (copied / "chat_template.jinja").is_file()


def test_one_merge_too_few_is_found(copied, corpus):
    changed(copied / "tokenizer.json", lambda tree: tree["model"]["merges"].pop(5))
    with pytest.raises(ExportRefused, match=r"differs on .* at token"):
        check.prove(copied, corpus)


def test_a_normaliser_that_adds_a_space_is_found(copied):
    def prepend(tree):
        tree["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, tree["normalizer"]],
        }

    changed(copied / "tokenizer.json", prepend)
    with pytest.raises(ExportRefused):
        check.prove(copied)


def test_a_missing_bos_is_found(copied):
    changed(copied / "tokenizer_config.json", lambda tree: tree.update(add_bos_token=False))
    changed(copied / "tokenizer.json", lambda tree: tree.update(post_processor=None))
    with pytest.raises(ExportRefused):
        check.prove(copied)


def test_a_tokenizer_from_elsewhere_reads_the_same(trained, tmp_path):
    """Without tokenizer.model the ids come from tokenizer.json, and are the same."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained[0] / name, tmp_path / name)
    ours, theirs = Tokenizer.load(trained[0]), Tokenizer.load(tmp_path)
    assert isinstance(theirs._pieces, HubPieces)
    assert (ours.bos, ours.eos, ours.pad, ours.vocab_size) == (
        theirs.bos,
        theirs.eos,
        theirs.pad,
        theirs.vocab_size,
    )
    assert (ours.piece_bytes() == theirs.piece_bytes()).all()
    for text in [*check.NASTY, "</s> and <|end|>"]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path)


def test_showing_a_check_says_how_much_was_compared(trained, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("one line\nanother line\n")
    folder = shutil.copytree(trained[0], tmp_path / "copy")
    check.show(folder, tmp_path / "lines.txt")
    said = capsys.readouterr().out
    assert "the same ids on 2 lines" in said
    assert "| lines.txt | 2 | 20 |" in said


def test_the_card_counts_what_becomes_of_the_text(trained, corpus):
    tokenizer = Tokenizer.load(trained[0])
    texts = [json.loads(line)["text"] for line in (corpus / "heldout.jsonl").read_text().splitlines()]
    ids = tokenizer.encode_all(texts)
    size, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    tokens = sum(map(len, ids))
    single = tokenizer.byte_ids
    spelt = sum(i in single for row in ids for i in row)
    text = (trained[0] / card.NAME).read_text()
    row = f"| pydoc | {len(texts)} | {size} | {size / tokens:.2f} | {tokens / words:.2f} "
    assert f"{row}| {100 * (1 - spelt / size):.3f} % | 0 |" in text
    assert f"text that spells one of the {len(tokenizer.specials)} control tokens stays text" in text
    assert "0 differences on 1000 lines" in text
    assert "vocab_size: 2000" in text


def test_a_round_trip_that_is_promised_and_not_kept_is_an_error(trained, monkeypatch):
    tokenizer = Tokenizer.load(trained[0])
    assert card.survey(tokenizer, [("a", "\u2581")])["a"].lost == 1, "promised is a space for this sign"
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "something else")
    with pytest.raises(ExportRefused, match="does not give 'words' back"):
        card.survey(tokenizer, [("a", "words")])


def test_a_tokenizer_that_makes_control_tokens_of_text_is_an_error(trained, monkeypatch):
    tokenizer = Tokenizer.load(trained[0])
    assert card.typed(tokenizer) == 7
    monkeypatch.setattr(tokenizer, "encode", lambda text: [tokenizer.eos])
    with pytest.raises(ExportRefused, match="typing <s> makes the control token"):
        card.typed(tokenizer)

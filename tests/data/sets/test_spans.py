import pytest
import torch

from llmkit.data.sets.spans import Spans
from llmkit.errors import DataError
from llmkit.models.encoder import Encoder
from llmkit.models.heads import with_head
from llmkit.objectives.phase import add
from llmkit.objectives.tune.span import Span
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected
from tests.nets import wild

PASSAGE = "\u00dcber all: the capital of France is Paris, where the government sits."
ASKED = [
    {"id": "1", "question": "What is the capital?", "context": PASSAGE, "answers": ["Paris"]},
    {"id": "2", "question": "Who sits there?", "context": PASSAGE, "answers": ["nobody", "the government"]},
    {"id": "3", "question": "Which one?", "context": PASSAGE, "answers": ["London"]},
]
LONG = {
    "id": "4",
    "question": "Which?",
    "context": "word " * 90 + "Paris" + " word" * 90,
    "answers": ["Paris"],
}


def opened(folder, records, tokenizer, every=False, **settings):
    data = collected(folder / "data", records)
    return Spans(Spans.Settings(data=data, tokenizer=tokenizer, **settings), "train", 1, every=every)


def text_of(tokenizer, row, answer):
    return Tokenizer.load(tokenizer).decode(row[answer[0] : answer[1] + 1]).strip(" ,.")


def test_the_labels_are_the_pieces_that_spell_the_answer(tmp_path, tokenizer):
    data = opened(tmp_path, ASKED, tokenizer, seq_len=128, stride=8)
    assert data.counts["dropped_not_in_passage"] == 1
    batch = data.batch([(row, row) for row in range(len(data))])
    found = [
        text_of(tokenizer, batch["tokens"][b], batch["answer"][b, p])
        for b, p in batch["valid"].nonzero().tolist()
    ]
    assert sorted(found) == ["Paris", "the government"]
    for b, p in batch["valid"].nonzero().tolist():
        assert batch["passage"][b, batch["answer"][b, p]].all()
        assert (batch["segments"][b, batch["answer"][b, p]] == p + 1).all()


def test_pieces_know_their_characters(tmp_path, tokenizer):
    (window, *_) = opened(tmp_path, ASKED[:1], tokenizer, seq_len=128, stride=8).texts
    inside = window.pieces[window.passage]
    assert (inside[0, 0], inside[-1, 1]) == (0, len(PASSAGE))
    first, last = window.answer
    assert PASSAGE[window.pieces[first, 0] : window.pieces[last, 1]].strip(" ,") == "Paris"


def test_a_long_passage_is_read_in_windows_that_overlap(tmp_path, tokenizer):
    some = opened(tmp_path, [LONG], tokenizer, seq_len=64, stride=16, question_len=16)
    (window,) = some.texts
    assert text_of(tokenizer, window.tokens, window.answer) == "Paris"
    every = opened(tmp_path, [LONG], tokenizer, every=True, seq_len=64, stride=16, question_len=16)
    read = sorted((w.pieces[w.passage][0, 0], w.pieces[w.passage][-1, 1]) for w in every.texts)
    assert (read[0][0], read[-1][1]) == (0, len(LONG["context"]))
    assert all(after[0] < before[1] for before, after in zip(read, read[1:]))
    assert sum(w.answer[0] >= 0 for w in every.texts) >= 1
    with pytest.raises(DataError, match="data.stride: 60 is not below"):
        opened(tmp_path, [LONG], tokenizer, seq_len=64, stride=60)


def test_the_loss_is_torchs_over_the_passage_however_windows_are_packed(tmp_path, tokenizer):
    shape = {"width": 16, "layers": 1, "heads": 2, "context": 128, "vocab_size": 512, "style": "bert"}
    net = wild(with_head(Encoder(Encoder.Settings(**shape)), "span", 2))
    objective, shares = Span(Span.Settings()), []
    (phase,) = objective.phases
    for pack in (True, False):
        data = opened(tmp_path, ASKED, tokenizer, seq_len=128, stride=8, pack=pack)
        parts = [data.batch([(row, row)]) for row in range(len(data))] + [data.batch([])]
        total = {key: float(n) for key, n in add(objective.count(phase, part) for part in parts).items()}
        assert total["questions"] == 2
        found, seen = zip(*(objective.loss(phase, {"model": net}, part, total) for part in parts))
        shares.append(sum(found))
        figures = objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})
        assert figures["loss"] == pytest.approx(shares[-1].item(), abs=1e-5)
    torch.testing.assert_close(*shares, atol=1e-5, rtol=1e-5)
    expected = []
    for window in data.texts:
        logits = net.label_logits(torch.from_numpy(window.tokens)[None])[0][torch.from_numpy(window.passage)]
        truth = torch.tensor(window.answer) - int(window.passage.argmax())
        expected.append(torch.nn.functional.cross_entropy(logits.T, truth))
    torch.testing.assert_close(shares[0], torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)

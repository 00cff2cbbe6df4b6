import pytest
import torch

from llmkit.data.sets.conversations import Conversations, last_reply_end
from llmkit.errors import DataError
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.objectives.phase import add
from llmkit.objectives.tune.sft import Sft
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected


def opened(folder, records, tokenizer, split="train", **settings):
    data = collected(folder / "data", records)
    return Conversations(Conversations.Settings(data=data, tokenizer=tokenizer, **settings), split, seed=1)


def said(dataset, batch):
    """What the labels of `batch` say, control tokens included."""
    tokenizer = Tokenizer.load(dataset.tokenizer_dir)
    names = {i: text for text, i in tokenizer.specials.items()}
    labels = batch["labels"][batch["labels"] >= 0].tolist()
    return "".join(names[i] if i in names else tokenizer.decode([i]) for i in labels)


def chat(*contents):
    return {
        "messages": [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    }


def test_replies_and_their_end_markers_are_learned_and_nothing_else(tmp_path, tokenizer):
    dataset = opened(tmp_path, [chat("Which word?", "war", "And now?", "peace", "Enough.")], tokenizer)
    assert said(dataset, dataset.batch([(0, 0)])) == "war<|end|>peace<|end|>"


def test_a_conversation_ends_with_the_last_reply_that_fits(tmp_path, tokenizer):
    long = chat("Which word?", "war", "And now?", "peace " * 40)
    dataset = opened(tmp_path, [long], tokenizer, seq_len=32)
    assert said(dataset, dataset.batch([(0, 0)])) == "war<|end|>"
    assert dataset.counts["cut"] == 1
    assert dataset.counts["labels_cut"] > 40


def test_no_reply_is_cut_in_the_middle():
    assert last_reply_end([0, 1, 1, 0, 0, 1, 1, 1, 0], limit=9) == 8
    assert last_reply_end([0, 1, 1, 0, 0, 1, 1, 1, 0], limit=8) == 8
    assert last_reply_end([0, 1, 1, 0, 0, 1, 1, 1, 0], limit=7) == 3
    assert last_reply_end([0, 1, 1, 0], limit=2) == 0


def test_records_without_a_label_are_dropped_and_counted(tmp_path, tokenizer):
    records = [chat("Which word?", "war"), chat("Anybody?"), chat("word " * 40, "yes")]
    counts = opened(tmp_path, records, tokenizer, seq_len=32).counts
    assert counts["conversations"] == 3
    assert counts["dropped_without_reply"] == 1
    assert counts["dropped_too_long"] == 1
    assert counts["rows"] == 1
    assert counts["labels"] >= 2


def test_a_split_without_labels_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no train reply ends within 8 tokens"):
        opened(tmp_path, [chat("word " * 40, "yes")], tokenizer, seq_len=8)


def test_a_missing_or_empty_split_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"train.jsonl: holds no conversations"):
        opened(tmp_path, [], tokenizer)
    (tmp_path / "data" / "heldout.jsonl").unlink()
    with pytest.raises(DataError, match=r"heldout.jsonl: there is no such file; make it with"):
        Conversations(
            Conversations.Settings(data=str(tmp_path / "data"), tokenizer=tokenizer), "heldout", seed=1
        )


def loss_and_gradient(dataset, change=lambda batch: batch):
    """SFT's loss over all rows at once, and the gradient of a small decoder's embedding."""
    shape = Settings(width=16, layers=2, heads=2, vocab_size=dataset.vocab_size, context=128)
    net, objective = initialise(Decoder(shape), seed=1), Sft(Sft.Settings())
    (phase,) = objective.phases
    group = [change(dataset.batch([(row, row)])) for row in range(len(dataset))]
    total = add(objective.count(phase, batch) for batch in group)
    loss = sum(objective.loss(phase, {"model": net}, batch, total)[0] for batch in group)
    loss.backward()
    return loss.item(), net.embed_tokens.weight.grad


def test_packed_conversations_give_the_loss_and_gradient_of_unpacked_ones(tmp_path, tokenizer, conversations):
    packed = opened(tmp_path, conversations, tokenizer, seq_len=128)
    single = opened(tmp_path, conversations, tokenizer, seq_len=128, pack=False)
    assert len(packed) < len(single) / 3
    loss, gradient = loss_and_gradient(packed)
    expected, expected_gradient = loss_and_gradient(single)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    leaking, _ = loss_and_gradient(
        packed, lambda batch: {**batch, "segments": batch["segments"].clamp(max=1)}
    )
    assert leaking != pytest.approx(expected, rel=1e-6)

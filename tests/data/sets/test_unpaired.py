import pytest
import torch

from llmkit.data.sets.unpaired import Unpaired
from llmkit.errors import DataError
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.objectives.phase import add
from llmkit.objectives.tune.kto import Kto
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected


def opened(folder, records, tokenizer, **settings):
    data = collected(folder / "data", records)
    return Unpaired(Unpaired.Settings(data=data, tokenizer=tokenizer, **settings), "train", seed=1)


def rated(prompt, reply, desirable):
    return {"prompt": [{"role": "user", "content": prompt}], "reply": reply, "desirable": desirable}


RECORDS = [rated("Which?", "war", True), rated("What?", "peace", False), rated("Who?", "me", True)]


def texts(dataset, batch, side=""):
    """(prompt and reply, reply) of every example of the first row."""
    decode = Tokenizer.load(dataset.tokenizer_dir).decode
    out = []
    for p in range(int(batch["valid"][0].sum())):
        mine = batch[f"{side}segments"][0] == p + 1
        labels = batch[f"{side}labels"][0][mine]
        out.append((decode(batch[f"{side}tokens"][0][mine]), decode(labels[labels >= 0])))
    return out


def test_a_reply_is_labelled_and_lent_to_another_prompt(tmp_path, tokenizer):
    dataset = opened(tmp_path, RECORDS, tokenizer)
    batch = dataset.batch([(0, 0)])
    said = {record["prompt"][0]["content"]: record for record in RECORDS}
    own, lent = texts(dataset, batch), texts(dataset, batch, "lent_")
    for (text, reply), (other_text, other), good in zip(own, lent, batch["desirable"][0], strict=True):
        prompt = text.removesuffix(reply)
        assert (reply, bool(good)) == (said[prompt]["reply"], said[prompt]["desirable"])
        assert other_text == prompt + other
        assert other != reply
    assert dataset.counts["desirable"] == 2


def test_a_pair_is_a_good_and_a_bad_example(tmp_path, tokenizer, pairs):
    dataset = opened(tmp_path, pairs, tokenizer, seq_len=96)
    assert dataset.counts["examples"] == 2 * len(pairs) == 2 * dataset.counts["desirable"]


def test_examples_that_teach_nothing_are_dropped_and_counted(tmp_path, tokenizer):
    counts = opened(tmp_path, [*RECORDS, rated("word " * 80, "war", True)], tokenizer, seq_len=64).counts
    assert counts["dropped_too_long"] == 1
    with pytest.raises(DataError, match="no train example fits into 8 tokens"):
        opened(tmp_path, [rated("word " * 40, "war", True)], tokenizer, seq_len=8)


def test_one_prompt_alone_has_nobody_to_borrow_from(tmp_path, tokenizer):
    dataset = opened(tmp_path, [RECORDS[0], {**RECORDS[0], "reply": "peace"}], tokenizer)
    assert dataset.counts["without_lent_reply"] == 2
    assert (dataset.batch([(0, 0)])["lent_labels"] == -100).all()


def test_packed_examples_give_the_loss_and_gradient_of_unpacked_ones(tmp_path, tokenizer, pairs):
    def run(dataset, change=lambda batch: batch):
        shape = Settings(width=16, layers=2, heads=2, vocab_size=dataset.vocab_size, context=128)
        nets = {"model": initialise(Decoder(shape), seed=1), "reference": initialise(Decoder(shape), seed=2)}
        objective = Kto(Kto.Settings())
        (phase,) = objective.phases
        group = [change(dataset.batch([(row, row)])) for row in range(len(dataset))]
        group = objective.prepare(group, nets, lambda numbers: numbers, 0)
        total = add(objective.count(phase, batch) for batch in group)
        loss = sum(objective.loss(phase, nets, batch, total)[0] for batch in group)
        loss.backward()
        return loss.item(), float(group[0]["z0"]), nets["model"].embed_tokens.weight.grad

    packed = opened(tmp_path, pairs, tokenizer, seq_len=128)
    single = opened(tmp_path, pairs, tokenizer, seq_len=128, pack=False)
    assert len(packed) < len(single) / 1.5
    loss, z0, gradient = run(packed)
    expected, expected_z0, expected_gradient = run(single)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert z0 == pytest.approx(expected_z0, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    leaking, _, _ = run(packed, lambda batch: {**batch, "tokens": batch["tokens"].roll(1, 1)})
    assert leaking != pytest.approx(expected, rel=1e-6)

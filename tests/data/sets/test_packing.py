"""Texts with labels, tagged words and pairs of texts that share a row have the loss and gradient of rows of
their own. Conversations, pairs, unpaired replies and passages: in the files of those sets.
"""

import pytest
import torch

from llmkit import registry
from llmkit.models.encdec import EncDec
from llmkit.models.heads import with_head
from llmkit.objectives.phase import add
from tests.data.sets.conftest import collected
from tests.nets import random_encoder, random_net, wild


def labelled(asked, answer):
    return {"text": asked, "label": ("long", "short")[len(answer) < 5]}


def tagged(asked, answer):
    words = asked.split()
    return {"tokens": words, "tags": [("low", "UP")[word[0].isupper()] for word in words]}


def text_pairs(asked, answer):
    return {"input": asked, "target": answer}


def two_sided(vocabulary: int):
    shape = {"style": "t5", "width": 16, "layers": 1, "heads": 2, "context": 128, "vocab_size": vocabulary}
    return wild(with_head(EncDec(EncDec.Settings(**shape)), "lm"))


CASES = {
    "labelled": (labelled, "classify", {"labels": ["long", "short"]},
                 lambda v: random_net("classify", 2, vocab_size=v), {}),
    "tagged": (tagged, "tag", {"labels": ["UP", "low"]},
               lambda v: random_encoder("tag", 2, vocab_size=v, style="modernbert"), {}),
    "encdec": (text_pairs, "seq2seq", {}, two_sided, {"net": "encdec"}),
    "decoder": (text_pairs, "seq2seq", {}, lambda v: random_net(vocab_size=v), {"net": "decoder"}),
}  # fmt: skip


def measured(dataset, objective, net, leak=False):
    """The loss of all rows at once, and its gradient. `leak`: documents of a row see each other."""
    (phase,) = objective.phases
    group = [dataset.batch([(row, row)]) for row in range(len(dataset))]
    if leak:
        group = [{**batch, "segments": batch["segments"].clamp(max=1)} for batch in group]
    total = {key: float(n) for key, n in add(objective.count(phase, batch) for batch in group).items()}
    loss = sum(objective.loss(phase, {"model": net}, batch, total)[0] for batch in group)
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return loss.item(), torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("case", CASES)
def test_packed_texts_give_the_loss_and_gradient_of_unpacked_ones(tmp_path, tokenizer, conversations, case):
    record, name, settings, make, options = CASES[case]
    said = [[message["content"] for message in r["messages"][:2]] for r in conversations]
    records = [{"id": str(i), **record(*texts)} for i, texts in enumerate(said)]
    data = collected(tmp_path / "data", records, heldout=[{**records[0], **record("Once More?", "yes")}])
    cls = registry.find("dataset", "text_pairs" if case in ("encdec", "decoder") else case)
    asked = {"data": data, "tokenizer": tokenizer, "seq_len": 96, **options}
    packed, single = (cls(cls.Settings(**asked, pack=pack), "train", seed=1) for pack in (True, False))
    assert len(packed) < len(single) / 2
    objective = registry.find("objective", name)
    objective = objective(objective.Settings(**settings))
    net = make(packed.vocab_size)
    loss, gradient = measured(packed, objective, net)
    expected, expected_gradient = measured(single, objective, net)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()
    leaking, _ = measured(packed, objective, net, leak=True)
    assert leaking != pytest.approx(expected, rel=1e-6)

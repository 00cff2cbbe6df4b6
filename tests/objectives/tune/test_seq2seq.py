import pytest
import torch

from llmkit.objectives.phase import add
from llmkit.objectives.tune.seq2seq import Seq2seq
from tests.nets import random_net


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torchs_over_all_target_tokens_however_they_are_dealt_out(smoothing):
    net, draw = random_net(), torch.Generator().manual_seed(1)
    tokens = torch.randint(400, (5, 9), generator=draw)
    labels = torch.where(torch.rand(5, 9, generator=draw) < 0.4, -100, tokens.roll(-1, 1))
    labels[2] = -100
    segments = torch.ones(5, 9, dtype=torch.int32)
    batch = {"tokens": tokens, "segments": segments, "labels": labels}
    logits = net.logits(net.hidden(tokens, segments)).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten(), label_smoothing=smoothing)
    objective = Seq2seq(Seq2seq.Settings(label_smoothing=smoothing))
    (phase,) = objective.phases
    parts = [{key: value[some] for key, value in batch.items()} for some in ([0, 1], [2], [3, 4])]
    total = {key: float(n) for key, n in add(objective.count(phase, part) for part in parts).items()}
    shares, seen = zip(*(objective.loss(phase, {"model": net}, part, total) for part in parts))
    torch.testing.assert_close(sum(shares), expected, atol=1e-5, rtol=1e-5)
    figures = objective.metrics(phase, {key: float(value) for key, value in add(seen).items()})
    plain = torch.nn.functional.cross_entropy(logits, labels.flatten()).item()
    assert figures["loss"] == pytest.approx(plain, abs=1e-4)
    if smoothing:
        assert figures["smoothed_loss"] == pytest.approx(expected.item(), abs=1e-4)

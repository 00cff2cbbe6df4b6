"""Beam search: the texts with the largest log-probability per token that a few candidates at a time find.

    K beams ─► (K, V) scores ─► the best 2 K ─► those that end: finished      (score / length^penalty)
                                            └─► the K best that go on ─► ...

As in transformers (`num_beams`, early_stopping=False): a text is finished when no beam that goes on can still
beat its K finished ones. A net that computes the same logits writes the same texts there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.generate import Reader


@torch.no_grad()
def search(
    net: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    max_new: int,
    *,
    beams: int,
    stop: Sequence[int],
    start: Sequence[int] = (),
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """The best reply to each of `prompts`, at most `max_new` tokens, without the stop token.

    `length_penalty` is the power of the length that a log-probability is divided by: above 1 favours long
    texts. For an encoder-decoder `prompts` are sources (of a captioner images, one tensor) and `start` is
    what its decoder reads first.
    """
    if not all(map(len, prompts)):
        raise ConfigError("generate: a prompt without a token; begin it with the tokenizer's BOS")
    was_training = net.training
    net.eval()
    try:
        return _search(net, prompts, max_new, beams, torch.tensor(list(stop)), start, length_penalty)
    finally:
        net.train(was_training)


def _search(net, prompts, max_new: int, K: int, stop: Tensor, start, power: float) -> list[list[int]]:
    rows = len(prompts)
    reader = Reader(net, prompts, max_new, True, start)
    scores = torch.full((rows, K), -torch.inf, dtype=torch.float64)
    scores[:, 0] = 0.0  # all beams are equal at first: one of them is enough
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in prompts]
    done, texts = [False] * rows, torch.zeros(rows, K, 0, dtype=torch.int64)
    for length in range(1, max_new + 1):
        logp = reader.step().float().cpu().log_softmax(-1).double()
        if length == 1:
            logp = logp.repeat_interleave(K, 0)
        V = logp.shape[-1]
        best, where = (scores.view(-1, 1) + logp).view(rows, K * V).topk(min(2 * K, K * V))
        beam, token = where // V, where % V
        ends = torch.isin(token, stop)
        for row in range(rows):
            if not done[row]:
                for rank in ends[row, :K].nonzero()[:, 0].tolist():
                    text = texts[row, beam[row, rank]].tolist()
                    finished[row].append((float(best[row, rank]) / length**power, text))
                finished[row] = sorted(finished[row], key=lambda found: -found[0])[:K]
        going = best.masked_fill(ends, -torch.inf)
        scores, order = going.topk(K)
        beam, token = beam.gather(1, order), token.gather(1, order)
        texts = torch.cat([texts.gather(1, beam[..., None].expand(-1, -1, length - 1)), token[..., None]], -1)
        for row, found in enumerate(finished):
            hope = float(scores[row, 0]) / length**power
            done[row] = done[row] or (len(found) == K and found[-1][0] >= hope)
        if all(done) or length == max_new:
            break
        first = torch.arange(rows)[:, None] * (1 if length == 1 else K)
        reader.keep((first + (0 if length == 1 else beam)).expand(rows, K).flatten())
        reader.read(token.flatten())
    for row, found in enumerate(finished):
        if not done[row]:
            found += [(float(s) / length**power, t.tolist()) for s, t in zip(scores[row], texts[row])]
    return [max(found, key=lambda one: one[0])[1] for found in finished]

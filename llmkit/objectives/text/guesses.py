"""What a net would have said at the labelled positions: for accuracies, at evaluation only."""

import torch

from llmkit.models.crossentropy import IGNORED, PLAIN_LOGITS
from llmkit.objectives.phase import Batch
from llmkit.objectives.text.causal import context


@torch.no_grad()
def guesses(net, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(nll (N,) fp32 in nats, right (N,) bool) of the N labelled positions, row by row.

    Right: the label has the largest logit. Logits are held of a few positions at a time.
    """
    labelled = batch["labels"] != IGNORED
    hidden = net.hidden(batch["tokens"], batch["segments"], **context(batch))[labelled]
    labels = batch["labels"][labelled]
    nll = torch.zeros(len(labels), device=labels.device)
    right = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    step = max(1, PLAIN_LOGITS // net.settings.vocab_size)
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        logits = net.logits(hidden[part]).float()
        nll[part] = torch.nn.functional.cross_entropy(logits, labels[part], reduction="none")
        right[part] = logits.argmax(-1) == labels[part]
    return nll, right

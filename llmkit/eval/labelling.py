"""What a net with a head of labels says about the held-out records of a collected folder."""

from typing import Any

import torch

from llmkit import registry
from llmkit.config import Section
from llmkit.data.pack import IGNORED
from llmkit.eval.scoring import BATCH_TOKENS


def opened_set(dataset: str, opened: Any, data: str, overlap: str, seq_len: int | None = None) -> Any:
    """The held-out split of `data` as `dataset`, with the tokenizer and the labels of `opened`.

    DataError for a label that the net does not know.
    """
    Set = registry.find("dataset", dataset)
    length = min(seq_len or opened.net.settings.context, opened.net.settings.context)
    settings: Section = Set.Settings(
        data=data, tokenizer=str(opened.tokenizer.folder), seq_len=length, labels=list(opened.net.labels),
        overlap=overlap,
    )  # fmt: skip
    return Set(settings, "heldout", 0)


def in_batches(net: torch.nn.Module, dataset: Any):
    """(rows, batch, logits) of all rows of `dataset`, in order; the logits on the CPU."""
    device, rows = next(net.parameters()).device, max(1, BATCH_TOKENS // dataset.seq_len)
    for start in range(0, len(dataset), rows):
        chosen = range(start, min(start + rows, len(dataset)))
        batch = dataset.batch([(row, row) for row in chosen])
        places = [batch[key].to(device) for key in ("starts", "ends") if key in batch]
        said = net.label_logits(batch["tokens"].to(device), batch["segments"].to(device), *places)
        yield chosen, batch, said.float().cpu()


@torch.inference_mode()
def logits(net: torch.nn.Module, dataset: Any) -> list[torch.Tensor]:
    """Logits of each of `dataset.texts`, on the CPU: (L,) of a whole text, (words, L) of a tagged one."""
    found: list = [None] * len(dataset.texts)
    for chosen, batch, said in in_batches(net, dataset):
        for b, row in enumerate(chosen):
            texts = dataset.rows[row]
            if "starts" in batch:
                parts = said[b][: len(texts)].unbind()
            else:
                words = [dataset.texts[i].words for i in texts]
                parts = said[b][batch["labels"][b] != IGNORED].split(words)
            for i, part in zip(texts, parts, strict=True):
                found[i] = part
    return found

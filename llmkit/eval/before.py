"""The other checkpoint of an evaluation: the model before a stage, or the reference it is held against."""

from typing import Any

from llmkit.errors import DataError
from llmkit.log import warn
from llmkit.opened import open_model


def opened_before(ckpt: str, opened: Any) -> Any:
    """Open `ckpt` beside `opened`, on the same device. DataError if their tokenizers differ."""
    other = open_model(ckpt, "lm", next(opened.net.parameters()).device)
    if other.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        ours, theirs = opened.tokenizer.fingerprint[:12], other.tokenizer.fingerprint[:12]
        raise DataError(
            f"{ckpt}: has tokenizer {theirs}, the evaluated model {ours}; compare models of one tokenizer"
        )
    mine, context = (each.net.settings.context for each in (opened, other))
    if context < mine:
        warn(f"{ckpt}: reads {context} tokens, the evaluated model {mine}; longer texts are new to it")
    return other

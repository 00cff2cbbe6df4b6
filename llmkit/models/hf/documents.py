"""Masked and two-sided models of transformers behind our interface, whatever their architecture.

    hidden(tokens, segments) ─► every document a row of its own, padded, masked ─► their body ─► put back
    logits(hidden)           ─► their whole model, with a body that hands it `hidden`

They know no packing, so documents are unpacked: right for every architecture, as slow as padding is. Their
heads go by many names; running the model around its own body needs none of them.
"""

import contextlib
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.crossentropy import IGNORED

Places = dict[tuple[int, int], slice]
"""(row, segment) -> where in its row a document stands."""


def documents(segments: Tensor) -> Places:
    """The documents of packed rows: `segments` (B, T), 0 = padding."""
    found: Places = {}
    for b, row in enumerate(segments.tolist()):
        for segment, places in itertools.groupby(range(len(row)), key=row.__getitem__):
            here = list(places)
            if segment:
                found[b, segment] = slice(here[0], here[-1] + 1)
    return found


def unpacked(x: Tensor, places: Places, pad: int) -> tuple[Tensor, Tensor]:
    """The documents of `x` (B, T), a row each: (N, L), and 1 where they are, (N, L)."""
    rows = [x[key[0], at] for key, at in places.items()]
    ones = [torch.ones_like(row) for row in rows]
    return (
        nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad),
        nn.utils.rnn.pad_sequence(ones, batch_first=True),
    )


def packed(rows: Tensor, places: Places, like: Tensor) -> Tensor:
    """`rows` (N, L, D) back in their places: (B, T, D), 0 where there is no document."""
    out = rows.new_zeros(*like.shape, rows.shape[-1])
    for row, ((b, _), at) in zip(rows, places.items(), strict=True):
        out[b, at] = row[: at.stop - at.start]
    return out


@contextlib.contextmanager
def handing_out(module: nn.Module, hidden: Tensor):
    """Inside, `module` computes nothing: it hands out `hidden`."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    def forward(*args: Any, **kwargs: Any):
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


class Masked(nn.Module):
    """A masked language model of transformers with `hidden`, `logits` and `nll`."""

    predicts = "masked"

    def __init__(self, model: Any, settings: Any):
        super().__init__()
        self.model, self.settings = model, settings
        self._pad = model.config.pad_token_id or 0

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, D); documents of a packed row do not see each other."""
        places = documents(torch.ones_like(tokens) if segments is None else segments)
        ids, real = unpacked(tokens, places, self._pad)
        out = self.model.base_model(input_ids=ids, attention_mask=real).last_hidden_state
        return packed(out, places, tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        blank = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
        with handing_out(self.model.base_model, rows):
            return self.model(input_ids=blank).logits.reshape(*hidden.shape[:-1], -1)

    def nll(self, tokens: Tensor, segments: Tensor | None, labels: Tensor, **source) -> Tensor:
        """Negative log-likelihood of `labels` (B, T) fp32, 0 where the label is -100."""
        hidden, at = self.hidden(tokens, segments, **source), labels != IGNORED
        nll = F.cross_entropy(self.logits(hidden[at]).float(), labels[at], reduction="none")
        return torch.zeros(labels.shape, device=nll.device).masked_scatter(at, nll)


class TwoSided(Masked):
    """An encoder-decoder of transformers; without a cache: the source is encoded anew for every token."""

    predicts = "seq2seq"

    def encode(self, source: Tensor, source_segments: Tensor | None = None) -> Tensor:
        """source (B, S) -> (B, S, D)"""
        places = documents(torch.ones_like(source) if source_segments is None else source_segments)
        ids, real = unpacked(source, places, self._pad)
        return packed(self._encoded(ids, real), places, source)

    def _encoded(self, ids: Tensor, real: Tensor) -> Tensor:
        return self.model.get_encoder()(input_ids=ids, attention_mask=real).last_hidden_state

    def hidden(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        *,
        source: Tensor | None = None,
        source_segments: Tensor | None = None,
    ) -> Tensor:
        """tokens (B, T), source (B, S) -> (B, T, D); target segment i sees source segment i."""
        assert source is not None, "an encoder-decoder needs a source"
        places = documents(torch.ones_like(tokens) if segments is None else segments)
        read = documents(torch.ones_like(source) if source_segments is None else source_segments)
        ids, real = unpacked(source, {key: read[key] for key in places}, self._pad)
        written, there = unpacked(tokens, places, self._pad)
        out = self.model.get_decoder()(
            input_ids=written,
            attention_mask=there,
            encoder_hidden_states=self._encoded(ids, real),
            encoder_attention_mask=real,
            use_cache=False,
        )
        return packed(out.last_hidden_state, places, tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        blank = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
        with handing_out(self.model.get_encoder(), rows), handing_out(self.model.get_decoder(), rows):
            out = self.model(input_ids=blank, decoder_input_ids=blank, use_cache=False)
        return out.logits.reshape(*hidden.shape[:-1], -1)

"""Batched generation with a key/value cache: the same tokens however rows are batched or padded.

    prompts ─► left-padded (padding is segment 0) ─► hidden ─► next-token logits ─► choose ─► append ─► ...

Every row draws from its own stream, keyed by (seed, row key), one uniform number a token: a row's reply does
not depend on which rows stand beside it. Once half of the rows have ended the others go on alone.
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError

AT_ONCE = 64
"""How many numbers a row's stream is asked for at a time: the same ones as one by one, at less cost."""


@torch.no_grad()
def generate(
    net: nn.Module, prompts: Sequence[Sequence[int]] | Tensor, max_new: int, **options
) -> list[list[int]]:
    """The replies to `prompts` (token ids), without the prompts and without the stop token.

    A reply has at most `max_new` tokens. The options are those of `stream`; `keep_stop` keeps the stop token.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    for tokens in stream(net, prompts, max_new, **options):
        for reply, token in zip(replies, tokens, strict=True):
            if token is not None:
                reply.append(token)
    return replies


@torch.no_grad()
def stream(
    net: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    max_new: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[int] = (),
    keep_stop: bool = False,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    cache: bool = True,
    start: Sequence[int] = (),
) -> Iterator[list[int | None]]:
    """Yield the next token of every row, None where one has ended, until all have or `max_new` is reached.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole distribution; `keys` name the rows'
    random streams (default: their index). `keep_stop` yields the stop token too. `cache=False` recomputes
    everything for each token: for nets that have no `past`. For an encoder-decoder, `prompts` are sources,
    encoded once, and `start` is what its decoder reads first; of a captioner they are images, one tensor
    (B, C, Y, X). Raises ConfigError for an empty prompt.
    """
    if not all(map(len, prompts)):
        raise ConfigError("generate: a prompt without a token; begin it with the tokenizer's BOS")
    if hasattr(net, "encode") and not start:
        raise ConfigError("generate: an encoder-decoder begins with a token of its own; give `start`")
    names = range(len(prompts)) if keys is None else keys
    was_training = net.training
    net.eval()
    try:
        sampler, streams = _Sampler(temperature, top_k, top_p), [_stream(seed, key) for key in names]
        reader = Reader(net, prompts, max_new, cache, start)
        yield from _steps(reader, max_new, sampler, stop, keep_stop, streams)
    finally:
        net.train(was_training)


class Reader:
    """A batch of texts as far as they have been read: tells what comes next, and reads what was chosen.

    reader.step() ─► (B, V) logits ─► choose ─► reader.read(chosen) ─► reader.step() ─► ...

    A prompt that several rows begin with is read once. Images are prompts of a captioner.
    """

    def __init__(self, net, prompts: Sequence[Sequence[int]] | Tensor, max_new: int, cache=True, start=()):
        self.device = device = next(net.parameters()).device
        self._copies = None  # which of the different prompts each row begins with, until it has been read
        source = {}
        if isinstance(prompts, Tensor):
            source = {"source": prompts.to(device)}
        else:
            numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
            if len(numbers) < len(prompts):
                self._copies = torch.tensor([numbers[tuple(prompt)] for prompt in prompts])
            prompts = list(numbers)
            tokens, segments = (x.to(device) for x in pad_left(prompts))
            if hasattr(net, "encode"):
                source = {"source": tokens, "source_segments": segments}
        if source:
            tokens = torch.tensor([list(start)], device=device).expand(len(prompts), -1)
            segments = torch.ones_like(tokens, dtype=torch.int32)
        rows, length = tokens.shape
        self.net, self._tokens, self._segments = net, tokens, segments
        self._past = net.past(rows, length + max_new, **source) if cache and hasattr(net, "past") else None
        self._source = {} if self._past else source

    def step(self) -> Tensor:
        """The logits of the token after what was read: (B, V)."""
        past = {"past": self._past} if self._past else {}
        hidden = self.net.hidden(self._tokens, self._segments, **past, **self._source)
        logits = self.net.logits(hidden[:, -1:])[:, 0]
        if self._copies is not None:
            rows, self._copies = self._copies, None
            logits = logits[rows]
            self.keep(rows)
        return logits

    def read(self, chosen: Tensor) -> None:
        """Go on with one token (B,) a row."""
        new = chosen.to(self._tokens.device)[:, None]
        one = torch.ones_like(new, dtype=torch.int32)
        if self._past is None:
            new, one = torch.cat([self._tokens, new], 1), torch.cat([self._segments, one], 1)
        self._tokens, self._segments = new, one

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (N,) alone, in this order, each as often as it is named: for beam search."""
        self._tokens, self._segments = self._tokens[rows], self._segments[rows]
        self._source = {key: value[rows] for key, value in self._source.items()}
        if self._past:
            self._past.keep(rows)


def _steps(reader, max_new, sampler, stop, keep_stop, streams):
    alive, rows = [True] * len(streams), list(range(len(streams)))  # rows: what the reader holds
    held = torch.arange(len(streams), device=reader.device)
    for number in range(max_new):
        if number % AT_ONCE == 0:
            ahead = [torch.rand(AT_ONCE, generator=g, dtype=torch.float64) for g in streams]
            uniform = torch.stack(ahead, 1).to(reader.device)
        chosen = sampler(reader.step().float(), uniform[number % AT_ONCE][held])
        said: list[int | None] = [None] * len(streams)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if alive[row]:
                alive[row] = token not in stop
                said[row] = token if alive[row] or keep_stop else None
        if any(token is not None for token in said):
            yield said
        if not any(alive):
            return
        kept = [i for i, row in enumerate(rows) if alive[row]]
        if 2 * len(kept) <= len(rows):
            places = torch.tensor(kept, device=reader.device)
            rows, held, chosen = [rows[i] for i in kept], held[places], chosen[places]
            reader.keep(places)
        reader.read(chosen)


def pad_left(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts of any lengths as tokens (B, T) int64 and segments (B, T) int32: 0 on the padding, then 1."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    segments = torch.zeros(len(prompts), longest, dtype=torch.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        segments[row, longest - len(prompt) :] = 1
    return tokens, segments


class _Sampler:
    """(B, V) logits and (B,) uniform numbers -> (B,) token ids."""

    def __init__(self, temperature: float, top_k: int, top_p: float):
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        p = (logits.double() / self.temperature).softmax(-1)
        if not self.top_k and self.top_p >= 1:  # all may be drawn: in any order, and sorting takes longest
            mass = p.cumsum(-1)
            return torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)[:, 0].clamp(
                max=p.shape[1] - 1
            )
        p, ids = p.sort(stable=True, dim=-1, descending=True)
        if self.top_k:
            p[:, self.top_k :] = 0
        below = p.cumsum(-1) - p  # the mass of the more likely tokens; the likeliest token is always kept
        p[below >= self.top_p] = 0
        mass = p.cumsum(-1)
        pick = (mass <= uniform[:, None] * mass[:, -1:]).sum(-1)
        return ids.gather(1, pick.clamp(max=ids.shape[1] - 1)[:, None])[:, 0]


def _stream(seed: int, key: int | str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x1fgenerate\x1f{key}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

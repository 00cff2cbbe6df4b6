"""A hidden Markov model over token ids: the classical baseline whose memory is a state instead of a context.

    z1 ─► z2 ─► ... ─► zN      states, S of them: p(z1) = start, p(z' | z) = move[z, z']
    │     │            │
    x1    x2           xN      token ids, V of them: p(x | z) = emit[z, x]

Fitted by expectation maximisation with the scaled forward and backward recursions of Rabiner (1989, sections
III and V.A), on rows of ROW ids cut from the training stream; scored as one stream. The training text's own
unigram is the prior of every state's emissions, so no id is impossible anywhere.

Written here rather than taken from hmmlearn 0.3.3: that is in "limited-maintenance mode", as it says itself,
would make scikit-learn and scipy part of every installation, and takes three times as long, since its
recursions in C go through one row after another (a round of EM on a million ids, 16 states, V 2,048: 0.51 s
against 1.63 s, medians of three on one core, 2026-11-30).
"""

from dataclasses import dataclass, field

import numpy as np

ROW = 512
"""Ids of a row of the training stream: a row begins with `start` instead of with what went before."""

BLOCK = 128
"""Rows looked at together, so that their tables stay in the processor's cache."""

SHRINK = 64.0
"""Each state is believed to have emitted so many ids of the unigram beforehand, and to have moved once."""


@dataclass(frozen=True)
class HiddenMarkov:
    """A hidden Markov model of S states and V ids; every row of its tables sums to 1."""

    start: np.ndarray
    """(S,) probability of the first state."""
    move: np.ndarray
    """(S, S) of the next state, given this one."""
    emit: np.ndarray
    """(S, V) of an id, given the state."""
    rounds: list[float] = field(default_factory=list)
    """Nats per training id before each round of `fit`."""
    fitted_to: int = 0
    """How many ids it was fitted to."""

    def log2_probs(self, ids: np.ndarray, start: int) -> np.ndarray:
        """log2 p(ids[t] | all ids before it), t >= start: `ids` (N,) -> (N - start,)."""
        likely = self.emit.T[ids]
        scale, state = np.empty(len(likely)), self.start
        for t, here in enumerate(likely):
            state = (state @ self.move if t else state) * here
            scale[t] = state.sum()
            state = state / scale[t]
        return np.log2(scale[start:])

    def expected(self, rows: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """What to expect of the states behind `rows` (R, L) of ids.

        Returns their log-likelihood in nats, and expected counts: of the first states (S,), of moves (S, S)
        and of ids by state (S, V).
        """
        x, states = rows.T, len(self.start)
        likely = self.emit.T.copy()[x]  # (L, R, S), as are the next two
        forward, backward = np.empty_like(likely), np.ones_like(likely)
        scale = np.empty((*x.shape, 1))
        state = np.broadcast_to(self.start, likely.shape[1:])
        for t in range(len(x)):
            state = (state @ self.move if t else state) * likely[t]
            scale[t] = state.sum(-1, keepdims=True)
            state = forward[t] = state / scale[t]
        likely /= scale
        for t in range(len(x) - 1, 0, -1):
            likely[t] *= backward[t]
            backward[t - 1] = likely[t] @ self.move.T
        moves = self.move * (forward[:-1].reshape(-1, states).T @ likely[1:].reshape(-1, states))
        forward *= backward  # p(state | the whole row)
        ids = [np.bincount(x.ravel(), p, self.emit.shape[1]) for p in forward.reshape(-1, states).T]
        return float(np.log(scale).sum()), forward[0].sum(0), moves, np.stack(ids)


def fit(
    ids: np.ndarray,
    vocab_size: int,
    states: int,
    *,
    max_rounds: int = 40,
    max_ids: int = 500_000,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> HiddenMarkov:
    """A model of `ids` (N,), from seeded random tables.

    Takes at most `max_rounds` rounds of expectation maximisation, and ends when one gains less than
    `tolerance` nats per id. Of a longer stream it learns from `max_ids` ids, in rows spread evenly over it.
    """
    length = min(ROW, len(ids))
    rows = np.asarray(ids[: len(ids) // length * length], dtype=np.int64).reshape(-1, length)
    rows = rows[:: -(-rows.size // max_ids)]
    unigram = _to_one(np.bincount(ids, minlength=vocab_size) + 1 / vocab_size)
    draw, rounds = np.random.default_rng(seed), []
    model = HiddenMarkov(
        np.full(states, 1 / states),
        _to_one(draw.exponential(size=(states, states))),
        _to_one(draw.exponential(size=(states, vocab_size)) * unigram),
        rounds,
    )
    while len(rounds) < max_rounds and (len(rounds) < 2 or rounds[-1] - rounds[-2] >= tolerance):
        blocks = [model.expected(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
        nats, first, moves, seen = map(sum, zip(*blocks, strict=True))
        rounds.append(nats / rows.size)
        model = HiddenMarkov(
            _to_one(first + 1 / states),
            _to_one(moves + 1 / states),
            _to_one(seen + SHRINK * unigram),
            rounds,
            rows.size,
        )
    return model


def _to_one(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(-1, keepdims=True)

"""Hidden Markov models against every path of states written out, and against the model that drew the text."""

from itertools import product

import numpy as np
import pytest

from llmkit.eval import hmm
from llmkit.eval.hmm import HiddenMarkov, fit
from llmkit.eval.ngram import KneserNey

V = 5


def drawn_tables(states, key=0):
    draw = np.random.default_rng(key)
    return HiddenMarkov(
        draw.dirichlet(np.ones(states)),
        draw.dirichlet(np.ones(states), size=states),
        draw.dirichlet(np.ones(V), size=states),
    )


def paths(model, ids):
    """Every path of states behind `ids` and its joint probability with them."""
    for path in product(range(len(model.start)), repeat=len(ids)):
        p = model.start[path[0]] * model.emit[path[0], ids[0]]
        for a, b, x in zip(path, path[1:], ids[1:]):
            p *= model.move[a, b] * model.emit[b, x]
        yield path, p


@pytest.mark.parametrize("states", [1, 2, 3])
def test_probabilities_are_those_of_all_paths_written_out(states):
    model, ids = drawn_tables(states), [0, 3, 3, 1, 4, 0]
    whole = [sum(p for _, p in paths(model, ids[:n])) for n in range(1, len(ids) + 1)]
    found = model.log2_probs(np.array(ids), start=0)
    assert np.exp2(found.cumsum()) == pytest.approx(whole)
    assert model.log2_probs(np.array(ids), start=2) == pytest.approx(found[2:])


def test_expected_counts_are_those_of_all_paths_written_out():
    model, rows = drawn_tables(3), np.array([[0, 3, 3, 1, 4], [2, 2, 0, 1, 1]])
    nats, first, moves, seen = 0.0, np.zeros(3), np.zeros((3, 3)), np.zeros((3, V))
    for ids in rows:
        whole = sum(p for _, p in paths(model, ids))
        nats += np.log(whole)
        for path, p in paths(model, ids):
            first[path[0]] += p / whole
            np.add.at(moves, (path[:-1], path[1:]), p / whole)
            np.add.at(seen, (path, ids), p / whole)
    for ours, plain in zip(model.expected(rows), (nats, first, moves, seen), strict=True):
        assert ours == pytest.approx(plain)


@pytest.fixture(scope="module")
def text():
    """30,000 ids of a model of three states that mostly stay; the states' ids overlap."""
    truth = HiddenMarkov(
        np.array([1.0, 0.0, 0.0]),
        np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]]),
        np.array([[0.7, 0.2, 0.1, 0, 0], [0, 0.1, 0.7, 0.2, 0], [0.1, 0, 0, 0.3, 0.6]]),
    )
    draw, state, ids = np.random.default_rng(0), 0, []
    for _ in range(30_000):
        ids.append(draw.choice(V, p=truth.emit[state]))
        state = draw.choice(3, p=truth.move[state])
    return truth, np.array(ids)


def test_text_of_a_known_model_is_predicted_as_well_as_by_that_model(text):
    truth, ids = text
    train, held = ids[:25_000], ids[25_000:]
    found = fit(train, V, states=3, max_rounds=100, tolerance=1e-5)
    bits = {order: -log2.mean() for order, log2 in KneserNey(train, V).log2_probs(held, start=4).items()}
    best, ours = (-model.log2_probs(held, start=4).mean() for model in (truth, found))
    assert best < bits[4] < bits[1] - 0.2  # an n-gram finds much, not all
    assert ours < bits[4]
    assert (bits[1] - ours) / (bits[1] - best) > 0.97


def test_every_round_makes_the_training_text_likelier(text, monkeypatch):
    monkeypatch.setattr(hmm, "SHRINK", 1e-3)  # the priors have a say too; here they have next to none
    _, ids = text
    rounds = fit(ids[:5000], V, states=4, max_rounds=25, tolerance=-1).rounds
    assert len(rounds) == 25
    assert (np.diff(rounds) > -1e-7).all()
    assert rounds[-1] > rounds[0] + 0.1


def test_probabilities_sum_to_one_and_no_id_is_impossible(text):
    _, ids = text
    model = fit(ids[:3000] + 2, vocab_size=12, states=4)
    for context in ([2, 3, 4], [0, 11], [0, 0, 0, 0, 0]):
        row = [model.log2_probs(np.array([*context, x]), start=len(context))[0] for x in range(12)]
        assert np.isfinite(row).all()
        assert np.exp2(row).sum() == pytest.approx(1)


def test_a_seed_gives_one_model_whatever_rows_are_looked_at_together(text, monkeypatch):
    _, ids = text
    found = fit(ids[:9000], V, states=4, seed=1)
    monkeypatch.setattr(hmm, "BLOCK", 3)
    assert fit(ids[:9000], V, states=4, seed=1).emit == pytest.approx(found.emit, abs=1e-9)
    assert not np.allclose(fit(ids[:9000], V, states=4, seed=2).emit, found.emit)


def test_the_bounds_hold_and_a_stream_shorter_than_a_row_will_do(text):
    _, ids = text
    assert len(fit(ids, V, states=2, max_rounds=3, tolerance=-1).rounds) == 3
    rows = ids[: 5 * hmm.ROW].reshape(5, -1).copy()
    few = fit(rows.ravel(), V, states=2, max_ids=3 * hmm.ROW, max_rounds=3)
    rows[[1, 3]] = rows[[3, 1]]
    assert fit(rows.ravel(), V, states=2, max_ids=3 * hmm.ROW, max_rounds=3).rounds == few.rounds
    rows[[1, 4]] = rows[[4, 1]]
    assert fit(rows.ravel(), V, states=2, max_ids=3 * hmm.ROW, max_rounds=3).rounds != few.rounds
    assert np.isfinite(fit(ids[:7], V, states=2).log2_probs(ids[:50], start=1)).all()

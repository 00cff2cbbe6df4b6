from collections import Counter

import numpy as np
import pytest

from llmkit.eval import ngram
from llmkit.eval.ngram import KneserNey

V = 12


@pytest.fixture(scope="module")
def text():
    """Ids with some order in them, so that all counts from 1 to 4 occur."""
    draw, ids = np.random.default_rng(0), [0]
    for _ in range(600):
        ids.append(int((ids[-1] * 3 + draw.choice([1, 2, 5], p=[0.7, 0.2, 0.1])) % (V - 2)))
    return np.array(ids)


def test_probabilities_of_every_order_sum_to_one_in_seen_and_unseen_contexts(text):
    model = KneserNey(text, V)
    for context in (text[40:43], [V - 1, V - 1, V - 1], [text[0], V - 1, text[5]], [3]):
        rows = [model.log2_probs(np.array([*context, w]), start=len(context)) for w in range(V)]
        for order in (1, 2, 3, 4):
            assert sum(2.0 ** row[order][0] for row in rows) == pytest.approx(1.0)


def test_the_arrays_compute_what_the_formulas_say(text):
    held = np.array([*text[100:130], V - 1, 2, 7])
    found = KneserNey(text, V).log2_probs(held, start=1)
    for order in (1, 2, 3, 4):
        plain = [
            np.log2(_plain(text, tuple(held[max(0, t - order + 1) : t]), held[t], order))
            for t in range(1, len(held))
        ]
        assert found[order] == pytest.approx(plain)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_what_is_written_follows_the_probabilities(text, order):
    model, draw, n = KneserNey(text, V), np.random.default_rng(0), 1000
    for context in ([int(x) for x in text[40:43]], [3, V - 1, V - 1], [5]):
        drawn = [model.sample(context, 1, stop=-1, draw=draw, order=order)[0] for _ in range(n)]
        rows = [model.log2_probs(np.array([*context, w]), start=len(context)) for w in range(V)]
        p = np.array([2.0 ** row[order][0] for row in rows])
        assert (abs(np.bincount(drawn, minlength=V) / n - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


def test_writing_ends_at_the_stop_token_or_after_so_many(text):
    model = KneserNey(text, V)
    first = model.sample([3], 50, stop=-1, draw=np.random.default_rng(1), order=3)
    assert len(first) == 50
    stop = first[7]
    again = model.sample([3], 50, stop=stop, draw=np.random.default_rng(1), order=3)
    assert again == first[: first.index(stop)]


def _plain(text, context, token, order) -> float:
    """Chen and Goodman's equations with dictionaries, over the text closed to a circle."""
    n = len(text)
    grams = {k: [tuple(text[(i + j) % n] for j in range(k)) for i in range(n)] for k in range(1, order + 1)}

    def counts(k):
        return Counter(grams[k]) if k == order else Counter(gram[1:] for gram in set(grams[k + 1]))

    def p(context, k):
        if k == 0:
            return 1 / V
        if len(context) < k - 1:
            return p(context, k - 1)
        table, context = counts(k), context[len(context) - k + 1 :]
        discount = ngram._discounts(np.array(list(table.values())))
        here = {gram: c for gram, c in table.items() if gram[:-1] == context}
        if not here:
            return p(context[1:], k - 1)
        freed = sum(discount[min(c, 3)] for c in here.values())
        count = here.get((*context, token), 0)
        return (count - discount[min(count, 3)] + freed * p(context[1:], k - 1)) / sum(here.values())

    return p(context, order)


def test_more_context_helps_where_the_text_depends_on_it(text):
    held = text[:200]
    bits = {order: -found.mean() for order, found in KneserNey(text, V).log2_probs(held, start=4).items()}
    assert bits[2] < bits[1] - 1


def test_a_large_vocabulary_does_not_overflow():
    ids = np.array([250_000, 3, 250_001, 249_999, 3, 250_001] * 5)
    found = KneserNey(ids, 262_144).log2_probs(ids, start=3)
    assert (found[4] > -1).all()

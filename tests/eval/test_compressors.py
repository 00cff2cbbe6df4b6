import random

from llmkit.eval.compressors import conditional_bytes


def test_text_that_was_seen_costs_almost_nothing_and_new_text_costs_what_it_holds():
    draw = random.Random(5)
    train = bytes(draw.choices(b"abcdefgh", k=20_000))
    seen = conditional_bytes(train[5000:9000], train)
    new = conditional_bytes(bytes(draw.choices(b"abcdefgh", k=4000)), train)
    assert seen["xz"] < 60
    assert 1450 < new["xz"] < 2000
    assert 1450 < new["bz2"] < 1900


def test_the_window_reaches_back_over_all_of_a_long_training_text():
    draw = random.Random(6)
    start = draw.randbytes(30_000)
    far = start + bytes(3_000_000)
    assert conditional_bytes(start, far)["xz"] < 500

"""Keyed noise: the distributions it claims, and nothing but the key decides."""

import hashlib

import torch

from llmkit.splitmix import MASK, ODD, mix
from llmkit.vision import noise

KEYS = noise.keys(3, 2000)


def test_uniform_numbers_fill_the_interval_evenly():
    drawn = noise.uniform(KEYS, "u", (50,))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 5000).square() / 5000).sum() < 45  # chi squared, 19 degrees: 45 is p = 7e-4


def test_normal_numbers_have_the_moments_of_a_normal():
    drawn = noise.normal(KEYS, "z", (51,)).double()
    assert drawn.shape == (2000, 51)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.var() - 1) < 0.02
    assert abs(drawn.pow(4).mean() - 3) < 0.1
    neighbours = torch.corrcoef(drawn.T) - torch.eye(51)
    assert neighbours.abs().max() < 0.12  # 2000 rows: 5 sigma


def test_rows_and_purposes_are_independent():
    rows = torch.corrcoef(noise.normal(torch.arange(30), "z", (2000,)).double()) - torch.eye(30)
    assert rows.abs().max() < 0.12
    a, b = (noise.normal(KEYS, purpose, (1,))[:, 0] for purpose in ("a", "b"))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.1


def test_a_row_draws_the_same_whichever_rows_are_beside_it():
    together, alone = noise.normal(KEYS[:7], "z", (3, 4)), noise.normal(KEYS[4:5], "z", (3, 4))
    assert torch.equal(together[4:5], alone)


def test_integers_are_in_range_and_all_of_them_come():
    drawn = noise.integers(KEYS, "class", 10)
    assert drawn.min() == 0
    assert drawn.max() == 9
    assert (drawn.bincount() - 200).abs().max() < 70


def test_bits_are_splitmix64_of_key_purpose_and_counter_as_a_gpu_has_them():
    """numpy's and torch's arithmetic against plain integers: runs on a CPU and on a GPU draw the same."""
    keys, drawn = KEYS[:5], noise.bits(KEYS[:5], "z", (3, 4))
    salt = int.from_bytes(hashlib.blake2b(b"z", digest_size=8).digest(), "little")
    for key, row in zip(keys.tolist(), drawn.flatten(1).tolist(), strict=True):
        start = mix((((key & MASK) ^ salt) - ODD) & MASK)
        assert [value & MASK for value in row] == [mix((start + i * ODD) & MASK) for i in range(12)]
    there = torch.tensor(mix(7) - (1 << 64) if mix(7) >> 63 else mix(7))
    assert noise._mix(torch.tensor(7) + noise._ODD) == there

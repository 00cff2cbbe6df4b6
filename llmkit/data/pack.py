"""Several documents in one row, without contact: each is a segment of its own.

A row of seq_len positions, padded at the end:

    tokens    a a a a b b b c c .        the documents a, b, c, and padding
    segments  1 1 1 1 2 2 2 3 3 0        attention, positions and labels stay inside a segment; 0 is padding
    labels    a a a - b b - c - -        the next token of the same segment, -100 where there is none to learn
"""

import bisect
import operator
from collections.abc import Sequence

import numpy as np
import torch

IGNORED = -100
"""The label of a position that carries no loss."""


def shifted(ids: Sequence[int], mask: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, labels) of one document: position t is labelled with token t+1 where `mask` marks it."""
    tokens = np.asarray(ids, np.int64)
    labels = np.full_like(tokens, IGNORED)
    learned = np.asarray(mask, bool)[1:]
    labels[:-1][learned] = tokens[1:][learned]
    return tokens, labels


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items share a row: longest first, each into the fullest row that still has room for it.

    No length may exceed `capacity`. Best-fit decreasing, as in Ding et al. (2024, section 3).
    """
    return best_fit_sides([(length,) for length in lengths], (capacity,))


def best_fit_sides(sizes: Sequence[tuple[int, ...]], capacity: tuple[int, ...]) -> list[list[int]]:
    """`best_fit` of items that take up room on several sides of a row at once: an encoder's and a decoder's.

    "Longest" is by the side on which an item takes the largest share; "fullest" is by the first side.
    """
    rows: list[list[int]] = []
    with_room: dict[tuple[int, ...], list[int]] = {}
    rooms: list[tuple[int, ...]] = []
    share = [max(size / most for size, most in zip(item, capacity, strict=True)) for item in sizes]
    for item in sorted(range(len(sizes)), key=lambda i: -share[i]):
        size = sizes[item]
        place = bisect.bisect_left(rooms, size)
        while place < len(rooms) and any(map(operator.lt, rooms[place], size)):
            place += 1
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[place], with_room[room]
        rows[row].append(item)
        room = tuple(map(operator.sub, room, size))
        if room not in with_room:
            with_room[room] = []
            bisect.insort(rooms, room)
        with_room[room].append(row)
    return rows


def lay(rows: list[list[tuple[np.ndarray, np.ndarray]]], seq_len: int, pad: int) -> dict[str, torch.Tensor]:
    """`tokens`, `segments`, `labels`, each (B, seq_len), of rows of documents; none: a row of padding."""
    named = [[{"tokens": tokens, "labels": labels} for tokens, labels in row] for row in rows]
    return lay_side(named, "segments", {"tokens": pad, "labels": IGNORED}, seq_len)


def lay_side(rows, segments: str, fill: dict[str, int], length: int) -> dict[str, torch.Tensor]:
    """One side of rows of documents: `segments` and every key of `fill`, each (B, length).

    A document is a mapping with an array under each of those keys; `fill` says what padding holds.
    """
    size = (max(1, len(rows)), length)
    arrays = {k: np.full(size, value, bool if value is False else np.int64) for k, value in fill.items()}
    arrays[segments] = np.zeros(size, np.int32)
    first = next(iter(fill))
    for b, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row, 1):
            end = start + len(document[first])
            arrays[segments][b, start:end] = number
            for key in fill:
                arrays[key][b, start:end] = document[key]
            start = end
    return {key: torch.from_numpy(array) for key, array in arrays.items()}

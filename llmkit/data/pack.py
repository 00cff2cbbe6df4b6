"""Several documents in one row, without contact: each is a segment of its own.

A row of seq_len positions, padded at the end:

    tokens    a a a a b b b c c .        the documents a, b, c, and padding
    segments  1 1 1 1 2 2 2 3 3 0        attention, positions and labels stay inside a segment; 0 is padding
    labels    a a a - b b - c - -        the next token of the same segment, -100 where there is none to learn
"""

import bisect
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
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_left(rooms, lengths[item])
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[place], with_room[room]
        rows[row].append(item)
        room -= lengths[item]
        if room not in with_room:
            with_room[room] = []
            bisect.insort(rooms, room)
        with_room[room].append(row)
    return rows


def lay(rows: list[list[tuple[np.ndarray, np.ndarray]]], seq_len: int, pad: int) -> dict[str, torch.Tensor]:
    """`tokens`, `segments`, `labels`, each (B, seq_len), of rows of documents; none: a row of padding."""
    size = (max(1, len(rows)), seq_len)
    tokens = np.full(size, pad, np.int64)
    segments = np.zeros(size, np.int32)
    labels = np.full(size, IGNORED, np.int64)
    for b, row in enumerate(rows):
        start = 0
        for number, (ids, targets) in enumerate(row, 1):
            end = start + len(ids)
            tokens[b, start:end], segments[b, start:end], labels[b, start:end] = ids, number, targets
            start = end
    arrays = {"tokens": tokens, "segments": segments, "labels": labels}
    return {key: torch.from_numpy(array) for key, array in arrays.items()}

"""What xz and bz2 need for a held-out text once they have seen the training text: baselines at hand.

bytes(held out | train) = compressed size of (train + held out) - compressed size of train
"""

import bz2
import lzma
from concurrent.futures import ThreadPoolExecutor

SMALLEST_WINDOW = 64 << 20
"""The dictionary of xz -9, 64 MiB. It grows until both texts fit, or xz would forget the first."""


def xz_bytes(data: bytes) -> int:
    """The size after `xz -9e`, with a dictionary that holds all of `data`."""
    window = max(SMALLEST_WINDOW, 1 << len(data).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters))


def bz2_bytes(data: bytes) -> int:
    """The size after `bz2 -9`, whose blocks of 900 kB are all it ever remembers."""
    return len(bz2.compress(data, 9))


def conditional_bytes(heldout: bytes, train: bytes) -> dict[str, int]:
    """{"xz", "bz2"} -> bytes that `heldout` adds to `train`. Two threads: both libraries release the GIL."""
    texts = (train + heldout, train)
    with ThreadPoolExecutor(2) as pool:
        sizes = {name: list(pool.map(size, texts)) for name, size in (("xz", xz_bytes), ("bz2", bz2_bytes))}
    return {name: both - alone for name, (both, alone) in sizes.items()}

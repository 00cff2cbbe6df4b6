"""Exact duplicates, by hash of normalised text: the first one in the order of the sources is kept."""

import xxhash


def normal(text: str) -> str:
    """`text` as duplicates are compared: lower case, every run of white space one space."""
    return " ".join(text.split()).lower()


class Seen:
    """The texts met so far as 128-bit hashes: about 90 bytes of memory each, no false alarm in practice."""

    def __init__(self):
        self._digests: set[bytes] = set()

    def __contains__(self, text: str) -> bool:
        """Whether `text` was asked about before; it is remembered either way."""
        digest = xxhash.xxh3_128_digest(normal(text).encode())
        if digest in self._digests:
            return True
        self._digests.add(digest)
        return False

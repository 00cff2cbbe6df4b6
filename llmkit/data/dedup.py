"""Exact duplicates, by hash of normalised text: the first one in the order of the sources is kept."""

import xxhash


def normal(text: str) -> str:
    """`text` as duplicates are compared: lower case, every run of white space one space."""
    return " ".join(text.split()).lower()


def digest(text: str) -> str:
    """128 bits, in hexadecimal, that are the same for duplicates and for no others in practice."""
    return xxhash.xxh3_128_hexdigest(normal(text).encode())


class Seen:
    """The digests met so far: about 90 bytes of memory each."""

    def __init__(self):
        self._digests: set[bytes] = set()

    def __contains__(self, digest: str) -> bool:
        """Whether `digest` was asked about before; it is remembered either way."""
        short = bytes.fromhex(digest)
        if short in self._digests:
            return True
        self._digests.add(short)
        return False

"""Where words begin and sentences end in a sequence of ids, by the text of the pieces.

A piece continues the word before it if one ends and the other begins with a letter or digit. Scripts without
spaces between words are taken as one long word from one punctuation mark to the next.
"""

from collections.abc import Callable

import numpy as np

SENTENCE_ENDS = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f")


def texts(tokenizer) -> list[str]:
    """The text that each id stands for, its leading space included; "" for control tokens."""
    anchor = tokenizer.encode("a")[-1]
    before = tokenizer.decode([anchor])
    return [tokenizer.decode([anchor, i])[len(before) :] for i in range(tokenizer.vocab_size)]


def word_starts(tokenizer) -> Callable[[np.ndarray], np.ndarray]:
    """A function ids (n,) -> (n,) bool: True where a word begins, as it does at every punctuation mark."""
    pieces = texts(tokenizer)
    opens = np.array([piece[:1].isalnum() for piece in pieces])
    closes = np.array([piece[-1:].isalnum() for piece in pieces])

    def starts(ids: np.ndarray) -> np.ndarray:
        continued = np.zeros(len(ids), bool)
        continued[1:] = opens[ids[1:]] & closes[ids[:-1]]
        return ~continued

    return starts


def sentence_ends(tokenizer) -> np.ndarray:
    """(V,) bool: the ids whose text ends a sentence."""
    return np.array([piece.rstrip(" ").endswith(SENTENCE_ENDS) for piece in texts(tokenizer)])

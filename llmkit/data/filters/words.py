"""How filters cut a text into words: a run of letters, digits and inner apostrophes, or one other sign.

Quality filters count words; spaCy's tokenizer, which datatrove uses, differs in few of them and takes most
of the time there.
"""

import re

_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:[-\u2019'.][^\W_]+)*|\.\.\.|[^\s\w]|_+")
WORD_SIGN = re.compile(r"\w")


def words(text: str) -> list[str]:
    """The words and punctuation marks of `text` in order."""
    return _WORD.findall(text)

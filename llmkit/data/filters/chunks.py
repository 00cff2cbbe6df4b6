"""What the quality filters ask of a text, counted by its chunks: what stands between white space.

    text.split() ─► number of each chunk ─► its row of a table ─► sums, and the hashes of all words in order

A chunk is cut into words once (words.py), and its row is looked up from then on: most of a text's chunks have
come before. So the four filters together take little more than one pass over the text.
"""

import sys
import unicodedata
from array import array
from typing import NamedTuple

import numpy

from llmkit.data.filters.marks import MARKS
from llmkit.data.filters.words import ENDS, cut

KNOWN = 1 << 18
"""Chunks in the table before it is begun anew: about 60 MB."""
AT_ONCE = 1 << 16
"""Chunks of a text between two looks at how large the table has become."""
STOP_WORDS = {word: 1 << i for i, word in enumerate(("the", "be", "to", "of", "and", "that", "have", "with"))}
"""Common English words, each a bit."""
_MARKS = frozenset(MARKS)


class Counts(NamedTuple):
    """What a text, or a chunk of it, holds."""

    words: int
    """Punctuation marks too."""
    chars: int
    """Of the words, without the spaces between them."""
    marks: int
    """Words of nothing but punctuation."""
    mark_chars: int
    letters: int
    """Words with a letter in them."""
    stops: int
    """Which of STOP_WORDS: a sum of their bits."""


class Text(NamedTuple):
    """A text as filters see it."""

    counts: Counts
    hashes: numpy.ndarray
    """(words,) int64: equal for equal words, in this process."""
    lengths: numpy.ndarray
    """(words,) int32 characters."""


class Table(dict):
    """Chunk -> its number. A chunk that is new is cut, and gets a row."""

    def __init__(self):
        super().__init__()
        self._rows, self._hashes, self._lengths = array("i"), array("q"), array("i")
        self.forms: list[str] = []
        """Of each chunk, its words as letters: E ends a sentence, W may begin one; other marks have none."""

    def __missing__(self, chunk: str) -> int:
        number = self[chunk] = len(self)
        parts = cut(chunk)
        first = len(self._hashes)
        if len(parts) == 1 and chunk.isalpha():
            self._rows.extend((1, len(chunk), 0, 0, 1, STOP_WORDS.get(chunk, 0), first))
            self._hashes.append(hash(chunk))
            self._lengths.append(len(chunk))
            self.forms.append("W")
            return number
        marks = mark_chars = letters = stops = 0
        form = ""
        for word in parts:
            if word.isalpha():
                letters += 1
                if word in STOP_WORDS:
                    stops |= STOP_WORDS[word]
                form += "W"
            elif len(word) == 1:
                form += _FORMS[word]
                if word in _MARKS:
                    marks += 1
                    mark_chars += 1
            else:
                form += "W"
                if _MARKS.issuperset(word):
                    marks += 1
                    mark_chars += len(word)
                else:
                    letters += any(map(str.isalpha, word))
        self._rows.extend((len(parts), len(chunk), marks, mark_chars, letters, stops, first))
        self._hashes.extend(map(hash, parts))
        self._lengths.extend(map(len, parts))
        self.forms.append(sys.intern(form))
        return number

    def text(self, chunks: list[str]) -> Text:
        """What the chunks hold together."""
        numbers = numpy.fromiter(map(self.__getitem__, chunks), numpy.intp, len(chunks))
        rows = numpy.frombuffer(self._rows, numpy.int32).reshape(-1, len(Counts._fields) + 1)[numbers]
        counts = rows[:, :-2].sum(0).tolist()
        stops = int(numpy.bitwise_or.reduce(rows[:, -2]))
        num = rows[:, 0]
        places = numpy.arange(counts[0])
        places += numpy.repeat(rows[:, -1] - numpy.cumsum(num) + num, num)
        hashes, lengths = numpy.frombuffer(self._hashes, numpy.int64), numpy.frombuffer(self._lengths, "i")
        return Text(Counts._make([*counts, stops]), hashes[places], lengths[places])


class _Forms(dict):
    """Words of one character -> their form."""

    def __missing__(self, word: str) -> str:
        form = "E" if word in ENDS else "" if unicodedata.category(word)[0] == "P" else "W"
        return self.setdefault(word, form)


_FORMS = _Forms()
_table = Table()
_last: tuple[str, Text] | None = None


def counted(text: str) -> Text:
    """What `text` holds. The next filter asks about the same text: kept."""
    global _last
    if _last is None or _last[0] != text:
        chunks = text.split()
        parts = [_known().text(chunks[at : at + AT_ONCE]) for at in range(0, len(chunks), AT_ONCE)]
        _last = text, parts[0] if len(parts) == 1 else _joined(parts)
    return _last[1]


def sentences(line: str) -> int:
    """How many sentences `line` has: one begins with the first word after marks such as . ! ?"""
    table = _known()
    return 1 + "".join([table.forms[number] for number in map(table.__getitem__, line.split())]).count("EW")


def _known() -> Table:
    global _table
    if len(_table) > KNOWN:
        _table = Table()
    return _table


def _joined(parts: list[Text]) -> Text:
    *sums, _ = (sum(part.counts[i] for part in parts) for i in range(len(Counts._fields)))
    stops = 0
    for part in parts:
        stops |= part.counts.stops
    none = numpy.zeros(0, numpy.int64)
    hashes = numpy.concatenate([none, *(part.hashes for part in parts)])
    return Text(
        Counts._make([*sums, stops]), hashes, numpy.concatenate([none, *(part.lengths for part in parts)])
    )

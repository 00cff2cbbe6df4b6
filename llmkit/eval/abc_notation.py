"""Reading tunes in ABC notation bar by bar: what is written, how long it lasts, how long the metre asks for.

    X:1                          fields; the header ends with K:
    M:6/8                        a bar lasts 6/8 of a whole note
    L:1/8                        a note without a number lasts 1/8
    K:D
    A |d2f edc|(3Bcd A>F D3:|    notes; a bar ends at a bar line

Source: the ABC music standard 2.1 (abcnotation.com, 2011): metre and unit length 3.1.6 and 3.1.7, lengths
4.3, broken rhythm 4.4, rests 4.5, bar lines and endings 4.8 to 4.10, tuplets 4.13, chords 4.17. Voices are
read one after another. Overlays (&), macros and symbol lines are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_SYMBOL = re.compile(
    "|".join(
        (
            r"(?P<field>^[A-Za-z]:[^\n]*|\[[A-Za-z]:[^\]\n]*\])",
            r"(?P<bar>:*\[?\|[|:\]]*(?:\[?[1-9][\d,-]*|[ ]*\[[1-9][\d,-]*)?|::+|\[[1-9][\d,-]*)",
            r"\((?P<tuplet>[2-9])(?::(?P<time>\d*))?(?::(?P<count>\d*))?",
            r"(?P<note>(?:\^{1,2}|_{1,2}|=)?[A-Ga-g][,']*|[zx])(?P<length>\d*/*\d*)",
            r"(?P<chord>\[[^\[\]|:\n]+\])(?P<times>\d*/*\d*)",
            r"(?P<broken><{1,3}|>{1,3})",
            r"(?P<rests>[ZX]\d*)",
            r"(?P<silent>\"[^\"\n]*\"|\{[^{}\n]*\}"  # annotation, grace notes
            r"|!(?:[^!\s|]+!)?|\+[^+\s|]+\+|[.~H-Wh-w]"  # decorations, the old line break
            r"|[\s`\\()y*$-])",  # space, slur, tie
        )
    ),
    re.MULTILINE,
)
_LENGTH = re.compile(r"(\d*)(/*)(\d*)")
_IN_CHORD = re.compile(r"(?:\"[^\"]*\"|[.~H-Wh-w])*[_^=]*[A-Ga-gzx][,']*(?P<length>\d*/*\d*)")
_COMPOUND = (Fraction(6, 8), Fraction(9, 8), Fraction(12, 8))


@dataclass(frozen=True)
class Bar:
    """What stands between two bar lines."""

    notes: tuple[tuple[str, Fraction], ...]
    """(pitch as written, length in whole notes); a rest is z, a chord is as it stands."""
    asked: Fraction | None
    """The length that the metre asks for; None without a metre."""
    edge: bool
    """Begins or ends at a repeat, an ending, a double line, a field or an end of the tune."""
    fault: str = ""
    """What in it is no ABC; empty for a sound bar."""

    @property
    def length(self) -> Fraction:
        return sum((length for _, length in self.notes), Fraction(0))

    @property
    def right(self) -> bool | None:
        """Whether it is as long as its metre asks; None for an upbeat, for its rest, and without a metre."""
        if self.fault:
            return False
        if self.asked is None or (self.edge and self.length < self.asked):
            return None
        return self.length == self.asked


@dataclass(frozen=True)
class Tune:
    """A tune as it was read."""

    key: str
    """What the header's K: field says."""
    bars: list[Bar]

    @property
    def sound(self) -> bool:
        """Whether all of it is ABC, and some of it notes."""
        return bool(self.bars) and not any(bar.fault for bar in self.bars)


def split(text: str) -> tuple[str, str]:
    """The header, up to the line end after its K: field, and the notes."""
    end = re.search(r"^K:.*\n?", text, re.MULTILINE)
    return (text[: end.end()], text[end.end() :]) if end else (text, "")


def read(text: str) -> Tune:
    """All bars of a tune. What cannot be read is a `fault` of the bar where it stands; nothing is raised."""
    header, notes = split(re.sub(r"(?<!\\)%.*", "", text))
    reader = _Reader()
    for line in header.splitlines():
        reader.field(line)
    return Tune(reader.key, [bar for bar in reader.bars(notes) if bar.notes or bar.fault])


class _Reader:
    """What holds while a tune is read: metre, unit, and the bar that is not yet over."""

    def __init__(self):
        self.key, self.asked, self.unit = "", None, None
        self._begin(edge=True)

    def _begin(self, edge: bool) -> None:
        self.notes: list[tuple[str, Fraction]] = []
        self.edge, self.fault = edge, ""
        self.tuplet, self.left = Fraction(1), 0  # the factor of so many notes to come
        self.next = Fraction(1)  # what a broken rhythm makes of the next note; 1 for nothing

    def field(self, line: str) -> None:
        """Take a field of the header or of the body to heart."""
        letter, value = line[:1], line[2:].strip()
        if letter == "M":
            self.asked = _metre(value)
        elif letter == "L":
            found = re.match(r"(\d+)/([1-9]\d*)", value)
            self.unit = Fraction(int(found[1]), int(found[2])) if found else self.unit
        elif letter == "K" and not self.key:
            self.key = value

    def bars(self, text: str) -> Iterator[Bar]:
        """The bars of a body, empty ones too."""
        place = 0
        while place < len(text):
            symbol = _SYMBOL.match(text, place)
            if symbol is None:
                self.fault = self.fault or f"{text[place : place + 12]!r} at {place}"
                place += 1
                continue
            place = symbol.end()
            if symbol["field"]:
                yield self._over(edge=True)
                self.field(symbol["field"].strip("[]"))
            elif symbol["bar"]:
                yield self._over(edge=symbol["bar"] != "|")
            else:
                self._take(symbol)
        yield self._over(edge=True)

    def _over(self, edge: bool) -> Bar:
        if self.left or self.next != 1:
            self.fault = self.fault or "a tuplet or a broken rhythm that the bar line cuts off"
        bar = Bar(tuple(self.notes), self.asked, self.edge or edge, self.fault)
        self._begin(edge)
        return bar

    def _take(self, symbol: re.Match) -> None:
        if symbol["note"]:
            self._add(symbol["note"], _number(symbol["length"]))
        elif symbol["chord"]:
            first = _IN_CHORD.match(symbol["chord"], 1)
            if first is None:
                self.fault = self.fault or f"{symbol['chord']!r} is no chord"
            else:
                self._add(symbol["chord"], _number(first["length"]) * _number(symbol["times"]))
        elif symbol["rests"]:
            self._add("z", (self.asked or 1) / self._unit())
        elif symbol["tuplet"]:
            self._tuplet(int(symbol["tuplet"]), symbol["time"], symbol["count"])
        elif symbol["broken"]:
            self._broken(symbol["broken"])

    def _add(self, pitch: str, units: Fraction) -> None:
        length = units * self._unit() * self.next
        self.next = Fraction(1)
        if self.left:
            length, self.left = length * self.tuplet, self.left - 1
        self.notes.append((pitch, length))

    def _unit(self) -> Fraction:
        if self.unit is not None:
            return self.unit
        return Fraction(1, 16) if self.asked and self.asked < Fraction(3, 4) else Fraction(1, 8)

    def _tuplet(self, notes: int, time: str | None, count: str | None) -> None:
        odd = 3 if self.asked in _COMPOUND else 2
        usual = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(notes, odd)
        self.tuplet, self.left = Fraction(int(time or usual), notes), int(count or notes)

    def _broken(self, signs: str) -> None:
        if not self.notes or self.next != 1:
            self.fault = self.fault or f"{signs!r} without a note before it"
            return
        short = Fraction(1, 2 ** len(signs))
        before, self.next = (2 - short, short) if signs[0] == ">" else (short, 2 - short)
        pitch, length = self.notes[-1]
        self.notes[-1] = (pitch, length * before)


def _number(text: str) -> Fraction:
    """`3` `/` `/4` `//` `3/2` as a factor of the unit length; 1 for none. A zero counts as 1."""
    above, strokes, below = _LENGTH.match(text).groups()
    under = int(below or 0) or 2 ** len(strokes)
    return Fraction(int(above or 0) or 1, under if strokes else 1)


def _metre(value: str) -> Fraction | None:
    """How long a bar of `6/8`, `2+3/8`, `C` or `C|` is; None for `none` and what is no metre."""
    if value in ("C", "C|"):
        return Fraction(1)
    found = re.match(r"\(?(\d+(?:\+\d+)*)\)?/([1-9]\d*)", value)
    return Fraction(sum(map(int, found[1].split("+"))), int(found[2])) if found else None

"""How filters cut a text into words and sentences: as spaCy's English tokenizer does, without spaCy.

Quality filters count words, and datatrove's count those of `spacy.blank("en")`, which takes most of the time
there. spaCy cuts at white space, and then takes prefixes, suffixes and infixes off each chunk by rules. The
rules are here, written shorter; what a chunk becomes is remembered, and there are few different ones in a
text. Of 315,291 chunks of twelve kinds of documents, 315,176 gave the same words before the last mends.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

WORD_SIGN = re.compile(r"\w")
LONGEST = 200
"""Characters of a chunk that the rules are asked about: they take the square of its length."""
REMEMBERED = 1 << 16
"""Chunks to remember, twice: about 40 MB of words."""

_QUOTES = "'\"\u201d\u201c`\u2018\u00b4\u2019\u201a\u201e\u00bb\u00ab\u300c\u300d\u300e\u300f\uff08\uff09"
_QUOTES += "\u3014\u3015\u3010\u3011\u300a\u300b\u3008\u3009\u27e6\u27e7"
_MARKS = r"\u2026,:;!?\u00bf\u061f\u00a1()\[\]{}<>_#*&\u3002\uff1f\uff01\uff0c\u3001\uff1b\uff1a\uff5e"
_MARKS += r"\u00b7\u0964\u060c\u06d4\u061b\u066a"
_ICONS = r"\u00a6\u00a9\u00ae\u00b0\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116\u2117"
_ICONS += r"\u211e-\u2123\u2125\u2127"
_ICONS += (
    r"\u2129\u212e\u213a\u213b\u214a\u214c\u214d\u214f\u2195-\u2199\u219c-\u219f\u21a1\u21a2\u21a4\u21a5"
)
_ICONS += r"\u21a7-\u21ad\u21af-\u21cd\u21d0\u21d1\u21d3\u21d5-\u21f3\u2300-\u2307\u230c-\u231f\u2322-\u2328"
_ICONS += r"\u232b-\u237b\u237d-\u239a\u23b4-\u23db\u23e2-\u2426\u2440-\u244a\u249c-\u24e9\u2500-\u25b6"
_ICONS += (
    r"\u25b8-\u25c0\u25c2-\u25f7\u2600-\u266e\u2670-\u2767\u2794-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
)
_MONEY = r"US\$|C\$|A\$|[$\u00a3\u20ac\u00a5\u0e3f\u20a0-\u20bf]"
_UNITS = "km\u00b2|km\u00b3|km/h|km|m\u00b2|m\u00b3|m/s|dm|cm\u00b2|cm\u00b3|cm|mm\u00b2"
_UNITS += "|mm\u00b3|mm|ha|\u00b5m|nm|yd|in|ft|kg"
_UNITS += "|mg|\u00b5g|lb|oz|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|g|t|m|T|G|M|K|%"
_PREFIX = re.compile(rf"[\u00a7%=\u2014\u2013]|\+(?![0-9])|\.\.+|{_MONEY}|[{_MARKS}{_QUOTES}{_ICONS}]")
_SUFFIX = re.compile(
    rf"(?:[{_MARKS}{_QUOTES}{_ICONS}\u2014\u2013]|\.\.+|['\u2019][sS]|(?<=[0-9])(?:\+|{_MONEY}|{_UNITS})"
    rf"|(?<=\u00b0[FfCcKk])\.|(?<=[0-9%\u00b2+\-{_MARKS}{_QUOTES}])\.|(?<=[^\W\d_A-Z])\.|(?<=[A-Z][A-Z])\.)$"
)
_ALPHA = r"[^\W\d_]"
_INFIX = re.compile(
    rf"\.\.+|[\u2026{_ICONS}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[^\W\d_A-Z{_QUOTES}])\.(?=[A-Z{_QUOTES}])"
    rf"|(?<=[{_QUOTES}])\.(?=[A-Z{_QUOTES}])|(?<={_ALPHA}),(?={_ALPHA})"
    rf"|(?<=[^\W_])(?:--|---|\u2014\u2014|[-\u2013\u2014~])(?={_ALPHA})|(?<=[^\W_])[:<>=/](?={_ALPHA})"
)
_ADDRESS = re.compile(  # the user before an @ holds none itself: that would take the square of its length
    r"(?:[\w+\-.]{2,}://)?(?:[^\s@]+@)?(?:(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.\d{1,3}){3}"
    r"|(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{0,62}\.)+[^\W\d_A-Z]{2,63})(?::\d{2,5})?(?:[/?#]\S*)?"
)

_WHO, _WHAT = "i you he she it we they", "who what when where why how there that this these those"
_MAY = (
    "ca could do does did had may might must need ought sha should wo would ai are is was were have has dare"
)
_SHORT = {
    "i": "'m|'m a",
    f"{_WHO} {_WHAT}": "'ll|'d|'ll 've|'d 've",
    f"you we they {_WHAT}": "'re",
    f"i you we they {_WHAT} could might must should would": "'ve",
    f"he she it {_WHAT}": "'s",
    _MAY: "n't|n't 've",
    "let": "'s",
    "can": "not",
    "gon": "na",
    "got": "ta",
    "y'": "all",
}
"""Words -> what may be written onto them; each is written with either apostrophe, or without."""
_NOT_SHORT = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore lets Lets"
_ONE = """
._. a.m. p.m. Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del.
Dr. E.G. E.g. Feb. Fla. Ga. Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans.
Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J.
N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St.
Tenn. Va. Wash. Wis. co. e.g. i.e. v.s. vs. C++ and/or w/o '' ): (-: (-; (: (; (= (o: )-: ): -_-
-__- 0.0 0.o 0_0 0_o 8) 8-) 8-D 8D :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-*
:-/ :-0 :-3 :-> :-D :-O :-P :-X :-] :-o :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x
:| :} ;) ;-) ;-D ;D ;_; <.< </3 <3 <33 <333 <space> =( =) =/ =3 =D =[ =] =| >.< >.> >:( >:o @_@ O.O
O.o O_O O_o V.V V_V [-: [: [= \\n \\t \\") ]= ^_^ ^__^ ^___^ o.0 o.O o.o o_0 o_O o_o v.v v_v xD xDD
XD XDD 'd 'em 'll 'nuff 'Cause 'cause ol' Ol' doin' Doin' goin' Goin' nothin' Nothin' nuthin'
Nuthin' somethin' Somethin' havin' Havin' lovin' Lovin' ma'am Ma'am o'clock O'clock not've 'S 's
\u2019S \u2019s \u2018S \u2018s
"""
"""What the rules would cut and spaCy leaves whole."""


def _exceptions() -> dict[str, list[str]]:
    """Chunk -> its words, where the rules would say something else."""
    known = {
        word: [word] for word in [*_ONE.split(), *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz")]
    }
    for words, ends in _SHORT.items():
        for word, end, mark in itertools.product(words.split(), ends.split("|"), ("'", "\u2019", "")):
            for start in (word, word.title()):
                parts = [start, *end.replace("'", mark).split()]
                known["".join(parts)] = parts
    for hour, half in itertools.product(range(1, 13), ("am", "pm", "a.m.", "p.m.")):
        known[f"{hour}{half}"] = [str(hour), half]
    return {chunk: parts for chunk, parts in known.items() if chunk not in _NOT_SHORT.split()}


_EXCEPTIONS = _exceptions()
_MADE_OF_MARKS = frozenset(
    word for word, parts in _EXCEPTIONS.items() if len(parts) == 1 and not word.isalpha()
)
_EASY = re.compile(r"([A-Za-z]*[a-z])([.,;:!?)])")
_MARKS_TOGETHER = re.compile(r"[^\w\s]{2}|\b\w\.|[^\w\s]\w\b")
_PLAIN = re.compile(r"\.\.\.|\w+|[^\s\w]")
_ENDS = frozenset(".!?\u061f\u3002\uff01\uff0e\uff1f\uff61\u203c\u203d\u2047\u2048\u2049\u0964\u0965\u06d4")


class Remembered(dict):
    """What `make` gives for a chunk of text, found out once. Full, it forgets what was not used lately."""

    def __init__(self, make: Callable[[str], Any]):
        super().__init__()
        self._make, self._older = make, {}

    def __missing__(self, chunk: str) -> Any:
        if len(self) >= REMEMBERED:
            self._older = dict(self)
            self.clear()
        made = self._older.get(chunk)
        made = self[chunk] = self._make(chunk) if made is None else made
        return made


_last: tuple[str, list[str]] = ("", [])


def words(text: str) -> list[str]:
    """The words and punctuation marks of `text` in order. The next filter asks about the same text: kept."""
    global _last
    if _last[0] != text:
        _last = text, list(itertools.chain.from_iterable(map(_chunks.__getitem__, text.split())))
    return _last[1]


def sentences(text: str) -> int:
    """How many sentences `text` has: one begins with the first word after marks such as . ! ?"""
    count, ended = 1, False
    for chunk in text.split():
        for word in _chunks[chunk]:
            if word in _ENDS:
                ended = True
            elif ended and not (len(word) == 1 and unicodedata.category(word)[0] == "P"):
                count, ended = count + 1, False
    return count


def cut(chunk: str) -> list[str]:
    """The words of a chunk without white space."""
    if known := _EXCEPTIONS.get(chunk):
        return known
    if chunk.isalpha():
        return [chunk]
    if (easy := _EASY.fullmatch(chunk)) and easy[1] not in _EXCEPTIONS:
        return [easy[1], easy[2]]
    if len(chunk) > LONGEST:
        return _PLAIN.findall(chunk)
    before: list[str] = []
    after: list[str] = []
    rest = chunk
    while rest:
        if known := _EXCEPTIONS.get(rest):
            before, rest = before + known, ""
            break
        start, end = _PREFIX.match(rest), _SUFFIX.search(rest)
        if start and (known := _EXCEPTIONS.get(rest[start.end() :])):
            before, rest = [*before, start[0], *known], ""
            break
        if end and (known := _EXCEPTIONS.get(rest[: end.start()])):
            before, after, rest = before + known, [*after, end[0]], ""
            break
        if start and end and start.end() <= end.start():
            before.append(start[0])
            after.append(end[0])
            rest = rest[start.end() : end.start()]
        elif start:
            before.append(start[0])
            rest = rest[start.end() :]
        elif end:
            after.append(end[0])
            rest = rest[: end.start()]
        else:
            break
    parts = before + (_inside(rest) if rest else []) + after[::-1]
    return _joined(parts) if _MARKS_TOGETHER.search(chunk) else parts


def _joined(parts: list[str]) -> list[str]:
    """`parts` with those put together again that make one word of the exceptions, such as `):`."""
    found: list[str] = []
    at = 0
    while at < len(parts):
        for num in (4, 3, 2):
            one = "".join(parts[at : at + num])
            if at + num <= len(parts) and one in _MADE_OF_MARKS:
                found.append(one)
                at += num
                break
        else:
            found.append(parts[at])
            at += 1
    return found


def _inside(text: str) -> list[str]:
    """`text` cut at its infixes, unless it is an address."""
    if "." in text and _ADDRESS.fullmatch(text):
        return [text]
    found, start = [], 0
    for mark in _INFIX.finditer(text):
        if mark.start() > start:
            found.append(text[start : mark.start()])
        if mark[0]:
            found.append(mark[0])
        start = mark.end()
    if start < len(text):
        found.append(text[start:])
    return found


_chunks = Remembered(cut)

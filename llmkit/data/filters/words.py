"""How filters cut a text into words and sentences: as spaCy's English tokenizer does, without spaCy.

Quality filters count words, and datatrove's count those of `spacy.blank("en")`, which takes most of the time
there. spaCy cuts at white space, and then takes prefixes, suffixes and infixes off each chunk by rules. The
rules are here, written shorter; what a chunk becomes is remembered, and there are few different ones in a
text. Of 315,291 chunks of twelve kinds of documents, 315,176 gave the same words before the last mends.
"""

import itertools
import re
from collections.abc import Callable
from operator import add
from typing import Any

WORD_SIGN = re.compile(r"\w")
LONGEST = 200
"""Characters of a chunk that the rules are asked about: they take the square of its length."""
REMEMBERED = 1 << 17
"""Chunks to remember: about 40 MB of words."""

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
_SINGLE = re.compile(rf"[{_MARKS}{_QUOTES}{_ICONS}\u2014\u2013]")
_SINGLE_SUFFIX = frozenset(filter(_SINGLE.match, map(chr, range(0x20000))))
_SINGLE_PREFIX = _SINGLE_SUFFIX | frozenset("\u00a7%=")
"""What is a prefix, or a suffix, wherever it stands."""
LONGEST_SUFFIX = 5
_PLAIN_ENDS = frozenset(".,;:!?)")
_ALPHA = r"[^\W\d_]"
_INFIX = re.compile(  # begins with all that may stand there: few places are looked at closely
    rf"[.\u2026{_ICONS}+*^,:<>=/\-\u2013\u2014~](?:(?<=\.)\.+|(?<=[\u2026{_ICONS}])|(?<=[0-9][+\-*^])(?=[0-9-])"
    rf"|(?<=[^\W\d_A-Z{_QUOTES}]\.)(?=[A-Z{_QUOTES}])|(?<=[{_QUOTES}]\.)(?=[A-Z{_QUOTES}])"
    rf"|(?<={_ALPHA},)(?={_ALPHA})|(?<=[^\W_]-)-{{0,2}}(?={_ALPHA})|(?<=[^\W_]\u2014)\u2014?(?={_ALPHA})"
    rf"|(?<=[^\W_][\u2013~])(?={_ALPHA})|(?<=[^\W_][:<>=/])(?={_ALPHA}))"
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
_BEGINNINGS = frozenset(word[:end] for word in _MADE_OF_MARKS for end in range(1, len(word) + 1))
_MARKS_TOGETHER = re.compile(r"[^\w\s]{2}|\b\w\.|[^\w\s]\w\b")
_PLAIN = re.compile(r"\.\.\.|\w+|[^\s\w]")
ENDS = frozenset(".!?\u061f\u3002\uff01\uff0e\uff1f\uff61\u203c\u203d\u2047\u2048\u2049\u0964\u0965\u06d4")


class Remembered(dict):
    """What `make` gives for a chunk of text, found out once. Full, it begins anew."""

    def __init__(self, make: Callable[[str], Any]):
        super().__init__()
        self._make = make

    def __missing__(self, chunk: str) -> Any:
        if len(self) >= REMEMBERED:
            self.clear()
        made = self[chunk] = self._make(chunk)
        return made


def words(text: str) -> list[str]:
    """The words and punctuation marks of `text` in order."""
    return list(itertools.chain.from_iterable(map(_chunks.__getitem__, text.split())))


def cut(chunk: str) -> list[str]:
    """The words of a chunk without white space."""
    if known := _EXCEPTIONS.get(chunk):
        return known
    if chunk.isalpha():
        return [chunk]
    word, mark = chunk[:-1], chunk[-1]
    if mark in _PLAIN_ENDS and word.isalpha() and word.isascii() and word[-1].islower():
        return [word, mark] if word not in _EXCEPTIONS else _peeled(chunk)
    if len(chunk) > LONGEST:
        return _PLAIN.findall(chunk)
    return _peeled(chunk)


def _peeled(chunk: str) -> list[str]:
    """The words of a chunk by spaCy's rules: prefixes and suffixes go in turns, then what is left is cut."""
    before: list[str] = []
    after: list[str] = []
    rest = chunk
    while rest:
        if known := _EXCEPTIONS.get(rest):
            before += known
            rest = ""
            break
        if rest.isalpha():
            break
        start, end = _prefix(rest), _suffix(rest)
        if start and (known := _EXCEPTIONS.get(rest[start:])):
            before += [rest[:start], *known]
            rest = ""
            break
        if end < len(rest) and (known := _EXCEPTIONS.get(rest[:end])):
            before += known
            after.append(rest[end:])
            rest = ""
            break
        if not start and end == len(rest):
            break
        if start:
            before.append(rest[:start])
        if start > end:  # both would take the same character
            end = len(rest)
        if end < len(rest):
            after.append(rest[end:])
        rest = rest[start:end]
    parts = before + (_inside(rest) if rest else []) + after[::-1]
    return _joined(chunk, parts) if len(parts) > 1 else parts


def _prefix(text: str) -> int:
    """Where the prefix of `text` ends; 0 without one."""
    if text[0] in _SINGLE_PREFIX:
        return 1
    return found.end() if (found := _PREFIX.match(text)) else 0


def _suffix(text: str) -> int:
    """Where the suffix of `text` begins; at its end without one."""
    if text[-1] in _SINGLE_SUFFIX:
        return len(text) - 1
    if "0" <= text[-1] <= "9":
        return len(text)
    near = 0 if text.endswith("..") else max(0, len(text) - LONGEST_SUFFIX)
    return found.start() if (found := _SUFFIX.search(text, near)) else len(text)


def _joined(chunk: str, parts: list[str]) -> list[str]:
    """`parts` with those put together again that make one word of the exceptions, such as `):`."""
    pairs = map(add, parts, parts[1:])
    if not any(map(_BEGINNINGS.__contains__, pairs)) or not _MARKS_TOGETHER.search(chunk):
        return parts
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
    if text.isalpha() or not _INFIX.search(text) or ("." in text and _ADDRESS.fullmatch(text)):
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

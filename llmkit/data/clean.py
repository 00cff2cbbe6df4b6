"""Conservative repair of text: what no reader would miss, and nothing that anybody wrote on purpose.

UTF-8 that was once read as Latin-1 is repaired, characters are composed (NFC), line ends become \\n, control
characters and the byte order mark go, spaces at line ends go, more than two blank lines become two.
Quotes, ligatures, full-width letters, indentation and runs of spaces inside a line stay as they are.
"""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb\ufffe\uffff]")
_LINE_END_SPACES = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
_FTFY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    remove_control_chars=False,
    explain=False,
)

MAX_CONTROL_FRAC = 0.01
"""A text with more control characters than this is something else under the name of text."""


def clean(text: str) -> tuple[str, str | None]:
    """-> (text, None) repaired, or (text, reason) where it cannot be used: lone_surrogate, binary, empty."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text, "lone_surrogate"
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    found = len(_CONTROL.findall(text))
    if found > MAX_CONTROL_FRAC * len(text) and found > 1:
        return text, "binary"
    text = _CONTROL.sub("", text) if found else text
    if not text.isascii():
        text = ftfy.fix_text(text, _FTFY) if is_bad(text) else unicodedata.normalize("NFC", text)
    text = _BLANK_LINES.sub("\n\n\n", _LINE_END_SPACES.sub("", text)).strip("\n")
    return text, None if text.strip() else "empty"

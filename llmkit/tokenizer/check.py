"""The proof that the Hugging Face export of a tokenizer gives the ids that llmkit trains with.

Every string is encoded twice: here, and by `AutoTokenizer` on the exported files. One difference refuses
the export. Strings that spell control tokens are compared with `split_special_tokens=True`, the only way
to keep what people type from becoming control tokens in transformers.
"""

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from llmkit.errors import DataError, ExportRefused
from llmkit.log import say
from llmkit.tokenizer import card, export
from llmkit.tokenizer.lines import records
from llmkit.tokenizer.vocabulary import Tokenizer

NASTY = (
    "", " ", "  ", "   ", "Hello world", " leading", "  two leading", "trailing ", "trailing  ",
    "a  b   c    d     e", "\n", "\n\n", "\n\n\n", "a\nb", "a\n\nb\n", " \n ", "a\r\nb", "\ttab",
    "a\tb\t\tc", "def f():\n    return 1\n", "        if x:\n\t\treturn", "\ufb01nance \ufb00",
    "\uff26\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff54\uff48", "non\u00a0breaking", "zero\u200bwidth",
    "e\u0301 is not \u00e9", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f44d\U0001f3fd ok", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0645\u0631\u062d\u0628\u0627",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac", "\u16a0\u16c7\u16bb", "\U00010330\U00010331",
    "\ufeffbom", "nul\x00inside", "bell\x07", "\u2581", "a\u2581b", "1234567890", "3.14e-10", "-----",
    "=" * 37, "aaaaaaaaaaa", "..........", "https://example.org/a?b=c&d=%20", "<0x41>", "<0x0A>", "<unk>",
    "[UNK]", "\u2585", "\u2047", "\ue000" + "0\ue001",
)  # fmt: skip


def prove(folder: Path, data: Path | None = None, lines: int = 1000) -> dict[str, int]:
    """Compare ids on `lines` lines of `data` (held-out ones first) and on NASTY strings.

    -> {"lines": compared, "strings": compared, "mismatches": 0}; ExportRefused with the first string that
    differs.
    """
    ours = Tokenizer.load(folder)
    theirs = loaded(folder)
    frame = export.frame(folder)
    literal = [text for name in ours.specials for text in (name, f"a {name} b", f"{name}{name}\n")]
    strings = [*NASTY, *literal]
    held = list(islice(_lines(data), lines)) if data else []
    for text in chain(strings, held):
        if difference := _difference(ours, theirs, text, frame):
            raise ExportRefused(
                f"{folder}: the Hugging Face tokenizer differs on {text[:80]!r}: {difference}"
            )
    return {"lines": len(held), "strings": len(strings), "mismatches": 0}


def examine(folder: Path, data: Path | None = None, lines: int = 1000) -> dict[str, int]:
    """`prove`, then look at what becomes of `data` by domain, and write the card -> what was proved."""
    proof = prove(folder, data, lines)
    tokenizer = Tokenizer.load(folder)
    figures = card.survey(tokenizer, chain((("difficult strings", t) for t in NASTY), _texts(data)))
    card.write(tokenizer, figures, proof, card.typed(tokenizer))
    return proof


def show(folder: Path, text: Path | None = None) -> None:
    """`llmkit tokenizer check DIR [TEXT]`: `examine`, and say so. `text`: a file or a collected directory."""
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{folder / 'tokenizer.json'}: there is no such file; give a directory made by tokenizer train"
        )
    if text and not text.exists():
        raise DataError(
            f"{text}: there is no such file or directory; give a text file or a collected directory"
        )
    proof = examine(folder, text)
    table = [line for line in (folder / card.NAME).read_text(encoding="utf-8").splitlines() if "|" in line]
    say("\n".join(table))
    say(f"{folder}: the same ids on {proof['lines']} lines and {proof['strings']} difficult strings")


def _difference(ours: Tokenizer, theirs, text: str, frame: tuple[list[int], list[int]]) -> str | None:
    """What differs between the two encodings of `text`, frame included; None if nothing."""
    before, after = frame
    mine = [*before, *ours.encode(text), *after]
    spelled = any(name in text for name in [*ours.specials, "<unk>", "[UNK]"])
    other = theirs(text, split_special_tokens=spelled)["input_ids"]
    if mine == other:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
    )
    return f"at token {at}, {mine[at : at + 5]} here and {other[at : at + 5]} there"


def loaded(folder: Path):
    """The tokenizer that transformers makes of `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _texts(data: Path | None) -> Iterator[tuple[str, str]]:
    """(domain, text) of a text file's lines, or of a collected directory's held-out texts, else of all."""
    if data and data.is_file():
        yield from ((data.name, line) for line in _lines(data))
    elif data:
        held = data / "heldout.jsonl"
        yield from records(held if held.is_file() else data / "train.jsonl")


def _lines(data: Path) -> Iterator[str]:
    """Lines of a text file, or of a collected directory: held-out documents first, then the others."""
    if data.is_file():
        yield from filter(None, data.read_text(encoding="utf-8", errors="replace").splitlines())
    for name in ("heldout.jsonl", "train.jsonl"):
        if (data / name).is_file():
            with (data / name).open(encoding="utf-8") as file:
                for record in map(json.loads, file):
                    yield from (line for line in record.get("text", "").splitlines() if line)

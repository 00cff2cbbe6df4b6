"""New pieces at the end of a vocabulary: control tokens, and words of a domain that took several pieces.

    old pieces, ids unchanged | control tokens | domain pieces         text that holds none of the new pieces
                                                                       has the ids that it had

A domain piece is found before anything else in a byte-pair, character or byte-level vocabulary, wherever its
text stands, as with `add_tokens` in transformers. In a unigram vocabulary it competes by a score that is a
little better than that of the pieces it stands for.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit.errors import ConfigError
from llmkit.tokenizer import card, export, parts
from llmkit.tokenizer.lines import records
from llmkit.tokenizer.sentencepieces import KIND, STEP, UNKNOWN
from llmkit.tokenizer.vocabulary import SPACE, Tokenizer

WORD = re.compile(r"(?<=\S) [^\W\d_]{3,}")
DOMAIN_BYTES = 100_000_000
"""Text that domain words are looked for in."""


def extend(folder: Path, out: Path, control: list[str], pieces: list[str], template: str | None) -> Tokenizer:
    """Write the tokenizer of `folder`, with new control tokens and `pieces`, to `out` -> it.

    `template`: another chat template. ConfigError names what cannot be added.
    """
    old = Tokenizer.load(folder)
    for name in export.FILES:
        if name != card.NAME and (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if template is not None:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    if (folder / "tokenizer.model").is_file():
        proto = (folder / "tokenizer.model").read_bytes()
        (out / "tokenizer.model").write_bytes(_appended(proto, old, control, pieces))
        export.write(out)
    else:
        _append(out, control, pieces)
    new = Tokenizer.load(out)
    assert new.vocab_size == old.vocab_size + len(control) + len(pieces), "a piece was there already"
    return new


def _check(wanted: list[str], known: set[str]) -> None:
    """ConfigError unless every one of `wanted` is new, and some text."""
    for number, piece in enumerate(wanted):
        if not piece.strip(SPACE + " "):
            raise ConfigError("pieces: an empty piece cannot be added; leave it out")
        if piece in known or piece in wanted[:number]:
            shown = piece.replace(SPACE, " ")
            raise ConfigError(f"tokens, pieces: {shown!r} is in the vocabulary already; leave it out")


def _appended(proto: bytes, old: Tokenizer, control: list[str], pieces: list[str]) -> bytes:
    """A SentencePiece model with more pieces at its end."""
    model = protobuf.ModelProto.FromString(proto)
    space = SPACE if model.normalizer_spec.escape_whitespaces else " "
    written = [text.replace(" ", space) for text in pieces]
    _check([*control, *written], {piece.piece for piece in model.pieces})
    unigram = model.trainer_spec.model_type == protobuf.TrainerSpec.UNIGRAM
    if unigram and (lying := parts.crossing(pieces)):
        raise ConfigError(f"pieces: {lying!r} lies across a space, which a unigram vocabulary cannot do")
    if unigram and (hidden := [text for text in control if old.byte_ids & {*old.encode(text)}]):
        raise ConfigError(f"tokens: {hidden[0]!r} has a character without a piece; spell it in others")
    scores = [piece.score for piece in model.pieces]
    unknown = min(p.score for p in model.pieces if p.type == KIND.NORMAL) - UNKNOWN if unigram else 0.0
    for text in control:
        model.pieces.add(piece=text, score=0, type=KIND.CONTROL)
        model.trainer_spec.control_symbols.append(text)
    for text, piece in zip(pieces, written, strict=True):
        if unigram:  # better than what it was spelt with, not so good that it breaks up other pieces
            spelt = sum(unknown if i in old.byte_ids else scores[i] for i in old.encode(text))
            model.pieces.add(piece=piece, score=spelt + 1 / STEP, type=KIND.NORMAL)
        else:
            model.pieces.add(piece=piece, score=0, type=KIND.USER_DEFINED)
            model.trainer_spec.user_defined_symbols.append(piece)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def _append(out: Path, control: list[str], pieces: list[str]) -> None:
    """The same for a directory that has a tokenizer.json alone."""
    from tokenizers import AddedToken, Tokenizer

    path = out / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    _check([*control, *pieces], set(tokenizer.get_vocab()))
    if b'"ByteLevel"' in path.read_bytes():
        for piece in pieces:
            if not piece.isascii():  # its decoder takes such letters for bytes
                raise ConfigError(f"pieces: {piece!r}: a byte-level vocabulary takes ASCII words only")
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in pieces])
    tokenizer.save(str(path))


def frequent(tokenizer: Tokenizer, path: Path, count: int) -> list[str]:
    """The `count` words of a .jsonl whose being one piece saves most tokens, with the space before them.

    Words that other pieces begin with are left out: as pieces they would break those up.
    """
    found: Counter[str] = Counter()
    size = 0
    for _, text in records(path):
        found.update(WORD.findall(text))
        size += len(text)
        if size >= DOMAIN_BYTES:
            break
    begun = set(_beginnings(tokenizer))
    words = [word for word, times in found.items() if times > 1 and word not in begun]
    if not (tokenizer.folder / "tokenizer.model").is_file():
        words = [word for word in words if word.isascii()]
    saved = {
        word: found[word] * (len(ids) - 1)
        for word, ids in zip(words, tokenizer.encode_all(words), strict=True)
        if len(ids) > 1
    }
    return sorted(saved, key=lambda word: (-saved[word], word))[:count]


def _beginnings(tokenizer: Tokenizer) -> Iterator[str]:
    """All that the pieces of a vocabulary begin with, the pieces themselves too."""
    for i in range(tokenizer.vocab_size):
        text = tokenizer.decode([i])
        yield from (text[:n] for n in range(2, len(text) + 1))

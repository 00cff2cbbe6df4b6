"""`llmkit tokenizer train`: a vocabulary from collected text, and the proof that its export is equal.

    train.jsonl -> lines of at most 4 kB -> SentencePiece -> tokenizer.model -> export -> check
                   (never dropped)         (deterministic)

SentencePiece drops lines that are too long or hold a reserved character, and says so only in a log nobody
reads; on the Pile that was 7 % of all lines (google/sentencepiece#671). Here every byte is accounted for,
and losing more than 0.1 % of them is an error.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import sentencepiece
import xxhash

from llmkit import config
from llmkit.config import Field, Section
from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer import chat, check, export
from llmkit.tokenizer.layout import LAYOUTS
from llmkit.tokenizer.vocabulary import SPACE, Tokenizer

LINE_BYTES = 4096
MAX_LOST_FRAC = 0.001
RESERVED = "\u2585"
"""SentencePiece's own stand-in for the unknown character: it drops every line that holds one."""


class TokenizerSpec(Section):
    """A vocabulary to train. The defaults keep every string intact: what is decoded is what was encoded."""

    quick_values: ClassVar[dict] = {"vocab_size": 1024, "train_bytes": 2_000_000}

    data: str = Field(description="directory made by `data collect` (kind: documents)")
    model: Literal["bpe"] = Field("bpe", description="bpe: byte-pair merges, for decoders")
    layout: Literal["llama", "t5", "bert"] = Field(
        "llama", description="spelling and ids of pad, unk, bos and eos, and what frames a text on export"
    )
    vocab_size: int = Field(
        4096, description="pieces, control tokens and 256 bytes included", ge=300, le=1_000_000
    )
    at_most: bool = Field(False, description="vocab_size is a ceiling: a small corpus gives fewer pieces")
    byte_fallback: bool = Field(
        True, description="spell unseen characters in bytes; without it they are lost"
    )
    character_coverage: float = Field(
        0.99995, description="share of characters that get a piece", gt=0.9, le=1
    )
    split_digits: bool = Field(True, description="every digit is a piece of its own")
    white_space: list[str] = Field(
        ["\n", "\n\n", "\t", "  ", "    ", "        "],
        description="runs of white space that are always one piece",
    )
    chat: str = Field(
        "plain", description="chat template: a name in tokenizer/chat/, or the path of a .jinja file"
    )
    markers: list[str] = Field(
        [], description="control tokens beside those of the chat template: [MASK], <|fim_prefix|>, ..."
    )
    sentinels: int = Field(
        0, description="control tokens <extra_id_0>, <extra_id_1>, ..., which stand for spans", ge=0, le=1000
    )
    train_bytes: int = Field(
        100_000_000, description="bytes of text to learn from; more is sampled down", ge=1000
    )
    check_lines: int = Field(1000, description="held-out lines on which the export must agree", ge=1)


def work(settings: TokenizerSpec, out: Path) -> dict:
    """Train, export and prove equal; `out` is a complete tokenizer directory afterwards.

    Raises ConfigError (vocabulary too large or small), DataError (text lost, no data), ExportRefused (ids
    differ).
    """
    template = find_template(settings.chat)
    out = Path(out)
    lines = Lines(Path(settings.data), settings.train_bytes)
    sentinels = [f"<extra_id_{i}>" for i in range(settings.sentinels)]
    control = dict.fromkeys([*settings.markers, *chat.markers(template), *sentinels])
    proto = _train(settings, lines, list(control))
    if lines.lost > MAX_LOST_FRAC * lines.bytes:
        raise DataError(
            f"{settings.data}: {lines.lost} of {lines.bytes} bytes would be skipped in training; "
            "remove the lines that hold U+2585 or that no line break or space divides"
        )
    (out / "tokenizer.model").write_bytes(proto)
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    (out / "spec.yaml").write_text(config.dump(settings), encoding="utf-8")
    export.write(out)
    proof = check.prove(out, Path(settings.data), settings.check_lines)
    tokenizer = Tokenizer.load(out)
    return {
        "fingerprint": tokenizer.fingerprint,
        "counts": {"pieces": tokenizer.vocab_size, "bytes": lines.bytes, "bytes_skipped": lines.lost},
        **proof,
    }


def find_template(name: str) -> str:
    """The text of the chat template called `name`: a path, or a name in tokenizer/chat/; or ConfigError."""
    path = Path(name)
    places = (
        [path]
        if path.suffix == ".jinja"
        else [h / "chat" / f"{name}.jinja" for h in config.homes("tokenizer")]
    )
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    known = sorted({p.stem for home in config.homes("tokenizer") for p in (home / "chat").glob("*.jinja")})
    raise ConfigError(f"chat: there is no template called {name!r}; known: {', '.join(known)}")


class Lines:
    """The training text as SentencePiece's sentences; after a pass, how many bytes it had and lost."""

    def __init__(self, data: Path, max_bytes: int):
        self.path = data / "train.jsonl"
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file; run llmkit data collect with out={data}")
        self.keep = min(1.0, max_bytes / max(1, self.path.stat().st_size))
        self.bytes = 0
        self.lost = 0

    def __iter__(self) -> Iterator[str]:
        for text in documents(self.path):
            if xxhash.xxh64_intdigest(text.encode()) < self.keep * 2**64:
                for line in chunks(text):
                    size = len(line.encode())
                    self.bytes += size
                    if size > LINE_BYTES or RESERVED in line:
                        self.lost += size
                    else:
                        yield line


def documents(path: Path) -> Iterator[str]:
    """The text of every document in a .jsonl of `data collect`; of conversations, every message's."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield from [record["text"]] if "text" in record else _spoken(record)


def _spoken(record: dict) -> list[str]:
    """Everything that is said in a conversation or a pair."""
    messages = record.get("messages") or record["prompt"]
    replies = [record[key] for key in ("chosen", "rejected") if key in record]
    return [m["content"] for m in messages] + replies


def chunks(text: str) -> Iterator[str]:
    """`text` in pieces of at most LINE_BYTES: whole lines, cut at spaces or, without any, anywhere."""
    for line in text.splitlines(keepends=True):
        while len(line.encode()) > LINE_BYTES:
            end = line.rfind(" ", 1, LINE_BYTES // 4)
            end = end if end > 0 else LINE_BYTES // 4  # a character has at most 4 bytes
            yield line[:end]
            line = line[end:]
        yield line


def _train(settings: TokenizerSpec, lines: Lines, control: list[str]) -> bytes:
    proto = io.BytesIO()
    layout = LAYOUTS[settings.layout]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=proto,
            model_type=settings.model,
            vocab_size=settings.vocab_size,
            hard_vocab_limit=not settings.at_most,
            byte_fallback=settings.byte_fallback,
            character_coverage=settings.character_coverage,
            split_digits=settings.split_digits,
            control_symbols=control,
            user_defined_symbols=[text.replace(" ", SPACE) for text in settings.white_space],
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            max_sentence_length=1 << 20,
            unk_id=layout.ids["unk"],
            bos_id=layout.ids["bos"],
            eos_id=layout.ids["eos"],
            pad_id=layout.ids["pad"],
            unk_piece=layout.pieces["unk"],
            bos_piece=layout.pieces["bos"],
            eos_piece=layout.pieces["eos"],
            pad_piece=layout.pieces["pad"],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, settings, lines) from None
    return proto.getvalue()


def _explained(error: RuntimeError, settings: TokenizerSpec, lines: Lines) -> Exception:
    """SentencePiece's complaint as one line that says what to set."""
    said = str(error)
    if largest := re.search(r"too high .*<= (\d+)", said):
        return ConfigError(
            f"vocab_size: {settings.vocab_size} pieces are more than {lines.bytes} bytes of text can give; "
            f"set it to at most {largest[1]}, or at_most=true"
        )
    if needed := re.search(r"required_chars\. \d+ vs (\d+)", said):
        return ConfigError(
            f"vocab_size: {settings.vocab_size} pieces are too few for the characters of this text; "
            f"set it to at least {needed[1]}, or lower character_coverage"
        )
    if lines.bytes == lines.lost:
        return DataError(f"{lines.path}: no text to train on; see rejected.jsonl beside it")
    return DataError(f"{lines.path}: SentencePiece failed: {said}")

"""`llmkit tokenizer train`: a vocabulary from collected text, and the proof that its export is equal.

    train.jsonl -> lines of at most 4 kB -> SentencePiece -> tokenizer.model -> export -> check
                   (never dropped)         (deterministic)

SentencePiece drops lines that are too long or hold a reserved character, and says so only in a log nobody
reads; on the Pile that was 7 % of all lines (google/sentencepiece#671). Here every byte is accounted for,
and losing more than 0.1 % of them is an error.
"""

from pathlib import Path
from typing import ClassVar, Literal

from llmkit import config
from llmkit.config import Field, Section
from llmkit.errors import ConfigError, DataError
from llmkit.log import say, warn
from llmkit.tokenizer import byte_level, chat, check, export, sentencepieces
from llmkit.tokenizer.layout import LAYOUTS
from llmkit.tokenizer.lines import Lines
from llmkit.tokenizer.vocabulary import Tokenizer

MAX_LOST_FRAC = 0.001
UNUSED = {
    "char": ("split_digits",),
    "byte": (
        "vocab_size", "at_most", "train_bytes", "weights", "byte_fallback", "character_coverage",
        "split_digits", "white_space",
    ),
    "byte_level": ("byte_fallback", "character_coverage", "white_space"),
}  # fmt: skip
"""Settings that a kind of model has no use for."""


class TokenizerSpec(Section):
    """A vocabulary to train. The defaults keep every string intact: what is decoded is what was encoded."""

    quick_values: ClassVar[dict] = {"vocab_size": 1024, "train_bytes": 2_000_000}

    data: str = Field(description="directory made by `data collect` (kind: documents)")
    model: Literal["bpe", "unigram", "char", "byte", "byte_level"] = Field(
        "bpe",
        description="bpe, unigram, char: SentencePiece's; byte: the 256 bytes, nothing learned; "
        "byte_level: GPT-2's merges of bytes, by tokenizers",
    )
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
    weights: dict[str, float] | None = Field(
        None, description="{source: its share of train_bytes}, every source named; without: by their sizes"
    )
    check_lines: int = Field(1000, description="held-out lines on which the export must agree", ge=1)


def work(settings: TokenizerSpec, out: Path) -> dict:
    """Train, export and prove equal; `out` is a complete tokenizer directory afterwards.

    Raises ConfigError (vocabulary too large or small), DataError (text lost, no data), ExportRefused (ids
    differ).
    """
    template = find_template(settings.chat)
    for key in settings.model_fields_set.intersection(UNUSED.get(settings.model, ())):
        warn(f"{key}: has no effect on model: {settings.model}")
    out = Path(out)
    lines = Lines(Path(settings.data), settings.train_bytes, settings.weights)
    sentinels = [f"<extra_id_{i}>" for i in range(settings.sentinels)]
    control = list(dict.fromkeys([*settings.markers, *chat.markers(template), *sentinels]))
    if settings.model == "byte_level":
        export.write_merges(
            out, byte_level.train(settings, lines, control), LAYOUTS[settings.layout], control
        )
    else:
        proto = sentencepieces.train(settings, lines, control)
        if lines.lost > MAX_LOST_FRAC * lines.bytes:
            raise DataError(
                f"{settings.data}: {lines.lost} of {lines.bytes} bytes would be skipped in training; "
                "remove the lines that hold U+2585 or that no line break or space divides"
            )
        (out / "tokenizer.model").write_bytes(proto)
        export.write(out)
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    (out / "spec.yaml").write_text(config.dump(settings), encoding="utf-8")
    proof = check.examine(out, Path(settings.data), settings.check_lines)
    tokenizer = Tokenizer.load(out)
    if tokenizer.vocab_size < settings.vocab_size:
        say(f"tokenizer: {tokenizer.vocab_size:,} pieces are all that {lines.bytes:,} bytes of text give")
    return {
        "fingerprint": tokenizer.fingerprint,
        "counts": {"pieces": tokenizer.vocab_size, "bytes": lines.bytes, "bytes_skipped": lines.lost},
        "sources": lines.used,
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

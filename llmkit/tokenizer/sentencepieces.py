"""Vocabularies that SentencePiece trains (bpe, unigram, char), and the one of 256 bytes, as model files.

All of them have control tokens first, in the layout's order, then 256 bytes, then what was learned.
"""

import io
import re
import string
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer import parts
from llmkit.tokenizer.layout import LAYOUTS, ROLES, Layout
from llmkit.tokenizer.lines import Lines
from llmkit.tokenizer.vocabulary import SPACE

UNKNOWN = 10
"""What a character without a piece costs more than the worst piece, in both libraries."""
KIND = protobuf.ModelProto.SentencePiece.Type
STEP = 256
"""Unigram scores are whole multiples of 1 / STEP, and far above -65. Of parts of at most 1,000 characters
(parts.py) the sums are then exact in float32 and in float64: what ties in one library ties in the other."""


def train(settings, lines: Lines, control: list[str]) -> bytes:
    """The model file of a TokenizerSpec. ConfigError or DataError says what to set when it cannot be made."""
    layout = LAYOUTS[settings.layout]
    if settings.model == "byte":
        return _bytes(layout, control)
    proto = io.BytesIO()
    more: dict[str, Any] = {f"{role}_id": layout.ids[role] for role in ROLES}
    more |= {f"{role}_piece": layout.pieces[role] for role in ROLES}
    if settings.model == "unigram":  # what control tokens are spelt with, those of later too: see export.py
        more["required_chars"] = "".join(
            sorted({*string.printable, *"".join(control)} - {*string.whitespace})
        )
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
            num_threads=1,
            minloglevel=2,
            **more,
        )
    except RuntimeError as error:
        raise _explained(error, settings, lines) from None
    return _settled(proto.getvalue()) if settings.model == "unigram" else proto.getvalue()


def _settled(proto: bytes) -> bytes:
    """A unigram model that both libraries read alike: rounded scores, white space as ordinary best pieces."""
    model = protobuf.ModelProto.FromString(proto)
    for piece in model.pieces:
        if piece.type == KIND.USER_DEFINED:
            piece.type, piece.score = KIND.NORMAL, 0.0
        elif piece.type == KIND.NORMAL:
            piece.score = round(piece.score * STEP) / STEP
    normal = [piece for piece in model.pieces if piece.type == KIND.NORMAL]
    assert min(piece.score for piece in normal) - UNKNOWN > -65
    if piece := parts.crossing(piece.piece for piece in normal):
        raise ConfigError(
            f"white_space: {piece!r} mixes spaces with line breaks; unigram takes runs of either"
        )
    return model.SerializeToString()


def _bytes(layout: Layout, control: list[str]) -> bytes:
    """256 bytes and the control tokens: nothing is learned, and a space is a byte like any other."""
    model = protobuf.ModelProto()
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback = protobuf.TrainerSpec.CHAR, True
    for role in ROLES:
        setattr(spec, f"{role}_id", layout.ids[role])
        setattr(spec, f"{role}_piece", layout.pieces[role])
    for role, text in layout.pieces.items():
        kind = KIND.UNKNOWN if role == "unk" else KIND.CONTROL
        model.pieces.add(piece=text, score=0, type=kind)
    for text in control:
        model.pieces.add(piece=text, score=0, type=KIND.CONTROL)
    for value in range(256):
        model.pieces.add(piece=f"<0x{value:02X}>", score=0, type=KIND.BYTE)
    spec.vocab_size = len(model.pieces)
    spec.control_symbols.extend(control)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    return model.SerializeToString()


def _explained(error: RuntimeError, settings, lines: Lines) -> Exception:
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

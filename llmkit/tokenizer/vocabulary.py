"""A trained vocabulary: text to ids and back, for every part of llmkit that handles text.

A tokenizer directory is self-contained and travels inside shards and checkpoints:

    tokenizer.model                           SentencePiece: what llmkit encodes with
    tokenizer.json, tokenizer_config.json     the same for Hugging Face
    chat_template.jinja                       how messages become text
    spec.yaml                                 how it was trained

A directory without tokenizer.model, one that came from elsewhere, is read from tokenizer.json; see hub.py.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit.errors import DataError
from llmkit.tokenizer import parts

SPACE = "\u2581"
"""What SentencePiece writes for a space inside a piece."""


class Tokenizer:
    """Ids of text, without special tokens: `encode` never makes one, whatever the text says.

    bos, eos, pad: ids. specials: {text of a control token: its id}. fingerprint: sha256 hex of what
    decides the ids.
    """

    def __init__(self, pieces, folder: Path):
        self._pieces = pieces
        self.folder = folder
        self.bos: int = pieces.bos
        self.eos: int = pieces.eos
        self.pad: int = pieces.pad
        self.vocab_size: int = pieces.vocab_size
        self.specials: dict[str, int] = pieces.specials
        self.fingerprint: str = pieces.fingerprint

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer in `folder`. DataError if there is none, or none that can be read."""
        folder = Path(folder)
        if (folder / "tokenizer.model").is_file():
            return cls(SentencePieces(folder / "tokenizer.model"), folder)
        if (folder / "tokenizer.json").is_file():
            from llmkit.tokenizer.hub import HubPieces

            return cls(HubPieces(folder), folder)
        raise DataError(
            f"{folder}: no tokenizer here (tokenizer.model or tokenizer.json); run llmkit tokenizer train"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no BOS, and no control token even where `text` spells one."""
        return self._pieces.encode(text)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of many texts at once, which is faster."""
        return self._pieces.encode_all(texts)

    def decode(self, ids) -> str:
        """The text of `ids`; control tokens give no text, bytes that are not UTF-8 give U+FFFD.

        Nor do ids of no piece, which a model with more rows than the vocabulary has may write.
        """
        return self._pieces.decode([int(i) for i in ids if i < self.vocab_size])

    def piece_bytes(self) -> np.ndarray:
        """(V,) int32: how many bytes of text each id stands for; 0 for control tokens.

        Their sum over a text's ids is its length in UTF-8; a literal U+2581 counts as the space it is
        read as.
        """
        return self._pieces.piece_bytes()

    @property
    def byte_ids(self) -> set[int]:
        """The ids of single bytes, which spell characters that have no piece."""
        return self._pieces.byte_ids

    @property
    def chat_template(self) -> str:
        """The jinja text of chat_template.jinja. DataError if the tokenizer has none."""
        path = self.folder / "chat_template.jinja"
        if not path.is_file():
            raise DataError(
                f"{path}: no chat template; train the tokenizer with chat=plain, or put one there"
            )
        return path.read_text(encoding="utf-8")

    @property
    def template_fingerprint(self) -> str:
        """sha256 hex of the chat template."""
        return hashlib.sha256(self.chat_template.encode()).hexdigest()


class SentencePieces:
    """The pieces of a SentencePiece model file."""

    def __init__(self, path: Path):
        proto = path.read_bytes()
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise DataError(
                f"{path}: not a SentencePiece model ({error}); train the tokenizer again"
            ) from None
        self.fingerprint = hashlib.sha256(proto).hexdigest()
        self.vocab_size = self._model.get_piece_size()
        self.bos, self.eos, self.pad = self._model.bos_id(), self._model.eos_id(), self._model.pad_id()
        controls = filter(self._model.is_control, range(self.vocab_size))
        self.specials = {self._model.id_to_piece(i): i for i in controls}
        self._encoder = parts.Encoder(_cut(proto), self._model.encode)

    def encode(self, text: str) -> list[int]:
        """What the library gives for `text` as a whole; but parts that came before are looked up."""
        return self._encoder.one(text)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return self._encoder.all(texts)

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    @property
    def byte_ids(self) -> set[int]:
        return set(filter(self._model.is_byte, range(self.vocab_size)))

    def piece_bytes(self) -> np.ndarray:
        return np.array([self._bytes(i) for i in range(self.vocab_size)], dtype=np.int32)

    def _bytes(self, i: int) -> int:
        if self._model.is_control(i) or self._model.is_unknown(i):
            return 0
        return 1 if self._model.is_byte(i) else len(self._model.id_to_piece(i).replace(SPACE, " ").encode())


def _cut(proto: bytes) -> Callable[[str], list[str]]:
    """The function that cuts text where no piece lies across; a model from elsewhere may allow no cut."""
    model = protobuf.ModelProto.FromString(proto)
    rule, spec, kind = model.normalizer_spec, model.trainer_spec, protobuf.ModelProto.SentencePiece
    changed = rule.add_dummy_prefix or rule.remove_extra_whitespaces or rule.name != "identity"
    plain = (p.piece for p in model.pieces if p.type in (kind.NORMAL, kind.USER_DEFINED))
    if changed or parts.crossing(plain):
        return lambda text: [text]
    if spec.model_type == protobuf.TrainerSpec.UNIGRAM:
        return parts.BOUNDED.findall
    return parts.WORDS.findall if spec.byte_fallback else lambda text: [text]

"""Pieces read from a Hugging Face tokenizer.json, for checkpoints that were not trained here."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llmkit.errors import DataError
from llmkit.tokenizer import byte_level, parts
from llmkit.tokenizer.vocabulary import SPACE

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


BERTS = {"bos": "cls", "eos": "sep"}
"""What BERT calls the pieces around a text."""


class HubPieces:
    """The pieces of a tokenizer.json, with the roles that tokenizer_config.json gives some of them."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        text = (folder / "tokenizer.json").read_bytes()
        try:
            self._model = Tokenizer.from_str(text.decode())
        except Exception as error:  # the Rust library raises bare Exception
            raise DataError(f"{folder / 'tokenizer.json'}: not a tokenizer ({error})") from None
        self._model.encode_special_tokens = True
        self._model.no_padding()  # a file may say that every text has 128 tokens
        self._model.no_truncation()
        self._byte_level = b'"ByteLevel"' in text
        added = self._model.get_added_tokens_decoder()
        self.specials = {token.content: i for i, token in added.items() if token.special}
        self._plain = {token.content for token in added.values() if not token.special}
        self._encoder = parts.Encoder(_cut(json.loads(text), self._plain), self._encode)
        self.vocab_size = self._model.get_vocab_size()
        roles = _roles(folder)
        self.eos = self._role(roles, "eos", folder)
        self.bos = self._role(roles, "bos", folder, self.eos)
        self.pad = self._role(roles, "pad", folder, self.eos)
        self.fingerprint = hashlib.sha256(text).hexdigest()

    def _role(self, roles: dict, name: str, folder: Path, otherwise: int | None = None) -> int:
        token = roles.get(f"{name}_token") or roles.get(f"{BERTS.get(name)}_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = self._model.token_to_id(token) if isinstance(token, str) else None
        if found is None and otherwise is None:
            raise DataError(
                f"{folder / 'tokenizer_config.json'}: {name}_token {token!r} is not in tokenizer.json"
            )
        return otherwise if found is None else found

    def encode(self, text: str) -> list[int]:
        return self._encoder.one(text)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return self._encoder.all(texts)

    def _encode(self, text):
        """Ids of a text, or of a list of them."""
        if isinstance(text, str):
            return self._model.encode(text, add_special_tokens=False).ids
        return [e.ids for e in self._model.encode_batch(text, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=True)

    @property
    def byte_ids(self) -> set[int]:
        return {i for piece, i in self._model.get_vocab().items() if _BYTE.fullmatch(piece)}

    def piece_bytes(self) -> np.ndarray:
        out = np.zeros(self.vocab_size, dtype=np.int32)
        for piece, i in self._model.get_vocab().items():
            if piece not in self.specials:
                out[i] = self._bytes(piece)
        return out

    def _bytes(self, piece: str) -> int:
        if self._byte_level:  # one character of the piece stands for one byte (Radford et al. 2019)
            return len(piece.encode()) if piece in self._plain else len(piece)
        return 1 if _BYTE.fullmatch(piece) else len(piece.replace(SPACE, " ").encode())


def _cut(tree: dict, plain: set[str]) -> Callable[[str], list[str]]:
    """Where text can be cut: at spaces if the words are those of byte_level.py, else nowhere."""
    steps = (tree.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    words = (steps[0].get("pattern") or {}).get("Regex")
    ours = words in byte_level.PATTERNS and tree.get("normalizer") is None
    if ours and not any(parts.BEFORE_SPACES.search(piece) for piece in plain):
        return parts.BEFORE_SPACES.split
    return lambda text: [text]


def _roles(folder: Path) -> dict:
    path = folder / "tokenizer_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None

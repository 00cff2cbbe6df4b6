"""`llmkit tokenizer extend CKPT`: more pieces for a trained model, or for a tokenizer alone.

    tokenizer + control tokens, words of a domain ─► the same ids, and new ones behind them
    embedding, output matrix, output bias         ─► the same rows, and new ones behind them:
                                                     the mean of the pieces that a word took before,
                                                     or of all rows (Hewitt 2021) for control tokens

The result is a run directory whose only checkpoint is step 0, to start from (`init:`), evaluate or export.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from llmkit import manifest
from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.log import say
from llmkit.models import heads
from llmkit.models.hf import importing
from llmkit.opened import build, open_model
from llmkit.tokenizer import chat, check, train
from llmkit.tokenizer import extend as pieces
from llmkit.tokenizer.vocabulary import Tokenizer


class Extend(Section):
    """What to add to which vocabulary. At least one of tokens, pieces, domain_pieces and chat."""

    ckpt: str = Field(description="run, checkpoint or Hugging Face directory, or a tokenizer directory")
    tokens: list[str] = Field([], description="new control tokens: <|tool|>, ...")
    pieces: list[str] = Field([], description="new pieces of text, a leading space included")
    domain: str | None = Field(None, description="directory of `data collect` whose words are to be pieces")
    domain_pieces: int = Field(0, description="how many words of `domain` at most", ge=0, le=100_000)
    chat: str | None = Field(None, description="another chat template; its control tokens are added")
    start: Literal["auto", "pieces", "mean"] = Field(
        "auto",
        description="new rows: pieces, the mean of those that spelt it; mean, of all; auto: mean for control "
        "tokens, else pieces",
    )

    def inputs(self) -> dict[str, str]:
        """The stage directories it reads."""
        named = {"ckpt": self.ckpt, "domain": self.domain or ""}
        return {label: folder for label, folder in named.items() if (Path(folder) / manifest.NAME).is_file()}


def work(settings: Extend, out: Path) -> dict:
    """Make `out` a run directory with the extended model, or the extended tokenizer.

    Raises ConfigError for pieces that cannot be added, ExportRefused if the tokenizer's export disagrees.
    """
    source = Path(settings.ckpt)
    if any((source / name).exists() for name in ("config.json", "index.json", "checkpoints")):
        return _model(settings, out)
    old = Tokenizer.load(source)
    new = _tokenizer(settings, old, out)
    proof = check.examine(out, Path(settings.domain) if settings.domain else None)
    return _facts(old, new) | proof


def _model(settings: Extend, out: Path) -> dict:
    opened = open_model(settings.ckpt)
    if opened.tokenizer is None:
        raise ConfigError(f"ckpt: {opened.path} has no tokenizer; put its tokenizer.json there")
    folder = out / "tokenizer"
    folder.mkdir()
    new = _tokenizer(settings, opened.tokenizer, folder)
    proof = check.examine(folder, Path(settings.domain) if settings.domain else None)
    net = grown(opened.net, new.vocab_size, _rows(settings, opened.tokenizer, new))
    lineage = {key: value for key, value in opened.lineage.items() if key != "tokenizer"}
    path = importing.save(net, out, folder, lineage)
    manifest.write(folder, verb="tokenizer.extend", status="done", result={"fingerprint": new.fingerprint})
    facts = _facts(opened.tokenizer, new) | proof
    facts["fingerprint"] = manifest.digest(manifest.read(path)["files"])
    return facts | {"licences": lineage.get("sources") or {}}


def _facts(old: Tokenizer, new: Tokenizer) -> dict:
    added = new.vocab_size - old.vocab_size
    say(f"{added} pieces added to {old.vocab_size}")
    return {"fingerprint": new.fingerprint, "counts": {"pieces": new.vocab_size, "added": added}}


def _tokenizer(settings: Extend, old: Tokenizer, out: Path) -> Tokenizer:
    """The extended tokenizer, written to `out`."""
    template = train.find_template(settings.chat) if settings.chat else None
    said = [text for text in chat.markers(template or "") if text not in old.specials]
    control = list(dict.fromkeys([*settings.tokens, *said]))
    words: list[str] = []
    if settings.domain_pieces:
        if not settings.domain:
            raise ConfigError("domain: is needed for domain_pieces; name a directory of data collect")
        words = pieces.frequent(old, Path(settings.domain) / "train.jsonl", settings.domain_pieces)
    words = list(dict.fromkeys([*settings.pieces, *words]))
    if not control and not words and template is None:
        raise ConfigError("tokens: nothing to add; give tokens, pieces, domain with domain_pieces, or chat")
    return pieces.extend(old.folder, out, control, words, template)


def _rows(settings: Extend, old: Tokenizer, new: Tokenizer) -> dict[int, list[int]]:
    """{new id: the old ids whose mean it begins as}; all of them for an empty list."""
    names = {i: text for text, i in new.specials.items()}
    rows = {}
    for i in range(old.vocab_size, new.vocab_size):
        spelt = old.encode(names.get(i) or new.decode([i]))
        by_pieces = settings.start == "pieces" or (settings.start == "auto" and i not in names)
        rows[i] = spelt if by_pieces else []
    return rows


@torch.no_grad()
def grown(net: Any, vocab_size: int, rows: dict[int, list[int]]) -> nn.Module:
    """`net` with a vocabulary of at least `vocab_size`; everything that it had is the same, bit for bit.

    `rows`: {new id: old ids whose mean its rows begin as, or [] for all}. A net may have more rows than its
    tokenizer has pieces; those are used first.
    """
    kind = heads.kind(net)
    if kind not in ("lm", "masked", "seq2seq", "score"):
        raise ConfigError(
            f"ckpt: a {type(net).__name__} cannot be extended; extend the model it started from"
        )
    head = "score" if kind == "score" else "lm"
    old_size = net.settings.vocab_size
    used = min([old_size, *rows])
    """Rows that are trained."""
    size = max(old_size, vocab_size)
    state = net.state_dict()
    wider = build(net.settings.model_copy(update={"vocab_size": old_size + 1}), head).state_dict()
    by_piece = {name for name, value in wider.items() if value.shape != state[name].shape}
    for name in by_piece:
        old = state[name]
        new = old.new_zeros(size, *old.shape[1:])
        new[:old_size] = old
        average = old[:used].double().mean(0)
        for i, spelt in rows.items():
            new[i] = old[spelt].double().mean(0) if spelt else average
        state[name] = new
    larger = build(net.settings.model_copy(update={"vocab_size": size}), head)
    larger.load_state_dict(state, assign=True)
    return larger.eval()

"""What a tokenizer does to text, by domain, and its card: tokenizer_card.md beside the files.

held-out text -> bytes per token, tokens per word, what is spelt in bytes, what does not come back -> card
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmkit import config
from llmkit.errors import ExportRefused
from llmkit.tokenizer.vocabulary import SPACE, Tokenizer

NAME = "tokenizer_card.md"
SAMPLE_BYTES = 1_000_000
"""Text of each domain that is looked at."""


@dataclass
class Figures:
    """Sums over the texts of one domain."""

    texts: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    spelt: int = 0
    """Tokens that are a single byte of a character without a piece."""
    lost: int = 0
    """Texts that do not come back as they were."""

    def row(self, name: str) -> str:
        fertility = f"{self.bytes / self.tokens:.2f} | {self.tokens / max(1, self.words):.2f}"
        covered = f"{100 * (1 - self.spelt / self.bytes):.3f} %"
        return f"| {name} | {self.texts} | {self.bytes} | {fertility} | {covered} | {self.lost} |"


def promise(folder: Path) -> str:
    """What the spec of a tokenizer trained here says of the round trip: exact, spaces, none or not stated.

    spaces: everything comes back, but a literal U+2581 as the space that SentencePiece takes it for.
    """
    if not (folder / "spec.yaml").is_file():
        return "not stated"
    spec = config.parse_yaml((folder / "spec.yaml").read_text(encoding="utf-8"), str(folder / "spec.yaml"))
    if spec["model"] in ("byte", "byte_level"):
        return "exact"
    return "spaces" if spec["byte_fallback"] else "none"


def survey(tokenizer: Tokenizer, texts: Iterable[tuple[str, str]]) -> dict[str, Figures]:
    """{domain: figures} of (domain, text) pairs. ExportRefused if a promised round trip is not kept."""
    promised = promise(tokenizer.folder)
    spelt = tokenizer.byte_ids
    found: dict[str, Figures] = {}
    for domain, text in texts:
        figures = found.setdefault(domain, Figures())
        if not text or figures.bytes >= SAMPLE_BYTES:
            continue
        ids = tokenizer.encode(text)
        back = tokenizer.decode(ids)
        figures.texts += 1
        figures.bytes += len(text.encode())
        figures.words += len(text.split())
        figures.tokens += len(ids)
        figures.spelt += sum(i in spelt for i in ids)
        figures.lost += back != text
        expected = text.replace(SPACE, " ") if promised == "spaces" else text
        if promised in ("exact", "spaces") and back != expected:
            raise ExportRefused(f"{tokenizer.folder}: does not give {text[:80]!r} back, as its spec promises")
    return {domain: figures for domain, figures in found.items() if figures.tokens}


def typed(tokenizer: Tokenizer) -> int:
    """How many control tokens there are; ExportRefused if one of them is made by text that spells it."""
    controls = set(tokenizer.specials.values())
    for name in tokenizer.specials:
        if controls & set(tokenizer.encode(f"a {name}{name} b")):
            raise ExportRefused(f"{tokenizer.folder}: typing {name} makes the control token")
    return len(tokenizer.specials)


TRIP = {
    "exact": "every string comes back as it was",
    "spaces": "every string comes back as it was, but a literal U+2581 comes back as a space",
    "none": "characters without a piece are lost",
    "not stated": "not stated by whoever trained it",
}


def write(tokenizer: Tokenizer, figures: dict[str, Figures], proof: dict[str, int], controls: int) -> Path:
    """Write the card -> its path."""
    spec = tokenizer.folder / "spec.yaml"
    rows = [figures[domain].row(domain or "text") for domain in sorted(figures)]
    text = [
        "# Tokenizer",
        "",
        f"{tokenizer.vocab_size} pieces, fingerprint `{tokenizer.fingerprint}`.",
        "",
        "| domain | texts | bytes | bytes per token | tokens per word | bytes in pieces | texts changed |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"- **Round trip**: {TRIP[promise(tokenizer.folder)]}.",
        f"- **Ids in transformers**: {proof['mismatches']} differences on {proof['lines']} lines and "
        f"{proof['strings']} difficult strings.",
        f"- **Typed control tokens**: text that spells one of the {controls} control tokens stays text. In "
        "transformers that takes `split_special_tokens=True`; without it the text becomes the token.",
        "- **Coverage** (bytes in pieces): the rest is spelt in single bytes, one token each.",
    ]
    if spec.is_file():
        text += ["", "How it was trained:", "", "```yaml", spec.read_text(encoding="utf-8").rstrip(), "```"]
    path = tokenizer.folder / NAME
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path

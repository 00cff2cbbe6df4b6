"""Every tokenizer spec on 10,000 held-out lines of four domains: ids in transformers, round trip, speed.

    python bench/tokenizer_parity.py OUT [SPEC ...]        about 20 s a spec on one core

The domains are what every Linux machine with Python has: Python's documentation, source code of its library,
licences of Debian packages, and names of Unicode characters with the characters (60 scripts). A third of the
files is held out; of each domain's held-out lines the first 2,500 are compared.
"""

import json
import pydoc_data.topics
import sys
import sysconfig
import time
import unicodedata
from pathlib import Path

from llmkit import config
from llmkit.tokenizer import card, check, train
from llmkit.tokenizer.vocabulary import Tokenizer

ROOT = Path(__file__).parents[1]
LINES = 2500


def domains() -> dict[str, list[str]]:
    """{name: texts of files}."""
    library = Path(sysconfig.get_paths()["stdlib"])
    licences = sorted(Path("/usr/share/doc").glob("*/copyright"))[:200]
    blocks = ((chr(c), unicodedata.name(chr(c), "")) for c in range(0xA0, 0x9000))
    names = [f"{character} {name}" for character, name in blocks if name]
    return {
        "documentation": list(pydoc_data.topics.topics.values()),
        "code": [path.read_text(errors="replace") for path in sorted(library.glob("*.py"))[:150]],
        "licences": [path.read_text(errors="replace") for path in licences if path.is_file()],
        "names": ["\n".join(names[i : i + 400]) for i in range(0, len(names), 400)],
    }


def write(out: Path) -> int:
    """The collected directory `out`, and the lines to compare in out/lines.txt -> how many."""
    out.mkdir(parents=True)
    lines = []
    with (out / "train.jsonl").open("w") as kept, (out / "heldout.jsonl").open("w") as held:
        for source, texts in domains().items():
            for i, text in enumerate(texts):
                record = {"id": f"{source}/{i}", "source": source, "text": text}
                (kept if i % 3 else held).write(json.dumps(record) + "\n")
            lines += [line for text in texts[::3] for line in text.split("\n") if line][:LINES]
    (out / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def measure(name: str, data: Path, out: Path) -> str:
    """One row of the table; ExportRefused if a single id differs."""
    started = time.monotonic()
    out.mkdir()
    given = {"data": str(data), "check_lines": 1}
    learned = {"at_most": True, "character_coverage": 0.99}  # the names hold 20,000 characters, each once
    given |= {} if name.startswith("byte") else learned
    train.work(config.load(train.TokenizerSpec, name, given, folder="tokenizer"), out)
    trained = time.monotonic() - started
    proof = check.prove(out, data / "lines.txt", 4 * LINES)
    tokenizer = Tokenizer.load(out)
    texts = [json.loads(line)["text"] for line in (data / "heldout.jsonl").read_text().splitlines()]
    size = sum(len(text.encode()) for text in texts)
    started = time.monotonic()
    ids = tokenizer.encode_all(texts)
    speed = size / (time.monotonic() - started) / 1e6
    exact = card.promise(out) == "exact"  # SentencePiece takes a literal U+2581 for a space
    wanted = texts if exact else [text.replace("\u2581", " ") for text in texts]
    lost = sum(tokenizer.decode(row) != text for row, text in zip(ids, wanted, strict=True))
    figures = f"{tokenizer.vocab_size} | {proof['lines']} + {proof['strings']} | {proof['mismatches']}"
    per_token = size / sum(map(len, ids))
    return f"| {name} | {figures} | {lost} of {len(texts)} | {per_token:.2f} | {trained:.0f} | {speed:.1f} |"


def main(out: Path, specs: list[str]) -> None:
    print(f"{write(out / 'data')} lines of four domains")
    print("| spec | pieces | lines + strings | different ids | documents lost | bytes/token | s | MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in specs or sorted(path.stem for path in (ROOT / "tokenizer").glob("*.yaml")):
        print(measure(name, out / "data", out / name), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

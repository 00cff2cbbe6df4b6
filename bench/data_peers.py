"""Filters, near-deduplication and extraction beside datatrove's and trafilatura's: same decisions? how fast?

    python -m venv V && V/bin/pip install -e '.[web]' 'datatrove[processing,io]==0.10.1' spacy lxml_html_clean
    V/bin/python bench/data_peers.py [--docs 2700] [--pages 60] [--rounds 6]

The documents are of twelve sources that `llmkit data catalogue` names, 20 kB of each at most. Each filter of
datatrove judges every document, and so does ours; every difference is listed. Speed is that of the chain
(gopher-repetition, gopher-quality, c4, fineweb; a document that is rejected goes no further), in CPU time of
one process; the sides take turns on slices of the documents. Near-duplicates: copies with two words changed
are put among the documents; datatrove's four MinHash stages against our filter. Pages: HTML of a
Debian package.
Results: bench/data_peers.md.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
from loguru import logger

from llmkit import registry
from llmkit.data import extract, fetch
from llmkit.data.sources import debian_reference, linux_doc

SOURCES: list[tuple[str, int, dict]] = [
    ("sotu", 100, {}),
    ("linux_doc", 400, {}),
    ("dictionary", 200, {"book": "gcide"}),
    ("dictionary", 200, {"book": "foldoc"}),
    ("boolq-passages", 300, {}),
    ("perl-doc", 150, {}),
    ("chitchat", 200, {"kind": "documents"}),
    ("fortunes", 200, {}),
    ("spam-assassin", 500, {"chars": 20_000}),
    ("libreoffice-help", 200, {"kind": "documents"}),
    ("law-and-medicine", 300, {}),
    ("debian-reference", 50, {}),
]
PEERS: dict[str, Callable] = {
    "gopher-repetition": GopherRepetitionFilter,
    "gopher-quality": GopherQualityFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}
LONGEST = 20_000
logger.remove()  # datatrove reports every stage


def documents(most: int) -> list[tuple[str, str]]:
    """(id, text) of documents of many kinds, in a fixed shuffled order."""
    found = []
    for name, num, settings in SOURCES:
        cls = registry.find("source", name)
        rows = [(f"{name}:{r['id']}", r["text"][:LONGEST]) for r in cls(cls.Settings(**settings)).records()]
        rows = [row for row in rows if row[1].strip()]
        found += random.Random(name).sample(rows, min(num, len(rows)))
    random.Random(0).shuffle(found)
    return found[:most]


def made() -> tuple[dict, dict]:
    """Our filters and datatrove's, by name."""
    ours = {name: registry.find("filter", name) for name in PEERS}
    return {name: cls(cls.Settings()) for name, cls in ours.items()}, {n: cls() for n, cls in PEERS.items()}


def theirs(filter, key: str, text: str) -> tuple[str, str | None]:
    """datatrove's judgement in our terms."""
    doc = Document(text=text, id=key)
    try:
        verdict = filter.filter(doc)
    except ZeroDivisionError:  # a text without words
        return text, "error"
    return doc.text, None if verdict is True else verdict[1]


def decisions(docs: list[tuple[str, str]]) -> list[tuple[str, str, str | None, str | None]]:
    """(filter, id, our reason, their reason) wherever the sides keep, or change, a text differently."""
    our, peers = made()
    different = []
    for name in PEERS:
        for key, text in docs:
            (a, ours), (b, peer) = our[name].judge(text), theirs(peers[name], key, text)
            if (ours is None) != (peer is None) or (ours is None and a != b):
                different.append((name, key, ours, peer))
    return different


def chain(judges: list[Callable[[str, str], tuple[str, str | None]]], docs: list[tuple[str, str]]) -> float:
    """CPU seconds that the documents take through a chain of filters."""
    start = time.process_time()
    for key, text in docs:
        for judge in judges:
            text, reason = judge(key, text)
            if reason:
                break
    return time.process_time() - start


def speed(docs: list[tuple[str, str]], rounds: int) -> tuple[float, float]:
    """Documents a second through the chain: ours, datatrove's."""
    our, peers = made()
    chains = (
        [lambda key, text, f=f: f.judge(text) for f in our.values()],
        [lambda key, text, f=f: theirs(f, key, text) for f in peers.values()],
    )
    chain(chains[1], docs[:5])  # spaCy is loaded by then
    took = [0.0, 0.0]
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            took[side] += chain(chains[side], docs[i::rounds])
    return len(docs) / took[0], len(docs) / took[1]


def copies(docs: list[tuple[str, str]], num: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The documents with `num` changed copies put among them, and the pairs (copy, original) of ids."""
    draw = random.Random(1)
    long = [doc for doc in docs if len(doc[1].split()) > 150]
    pairs, added = [], []
    for key, text in draw.sample(long, min(num, len(long))):
        words = text.split(" ")
        for at in draw.sample(range(len(words)), 2):
            words[at] = "changed"
        added.append((f"copy of {key}", " ".join(words)))
        pairs.append((f"copy of {key}", key))
    mixed = docs + added
    draw.shuffle(mixed)
    return mixed, pairs


def near_ours(docs: list[tuple[str, str]]) -> tuple[float, set[str]]:
    cls = registry.find("filter", "near-duplicates")
    filter = cls(cls.Settings())
    start = time.process_time()
    dropped = {key for key, text in docs if filter.judge(text)[1]}
    return time.process_time() - start, dropped


def near_theirs(docs: list[tuple[str, str]]) -> tuple[float, float, set[str]]:
    """CPU seconds of the signatures, of all four stages, and the ids that were dropped."""
    config = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8, n_grams=5
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        rows = "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in docs)
        (Path(folder) / "in/docs.jsonl").write_text(rows)
        read = JsonlReader(f"{folder}/in")
        sig, buckets, gone = f"{folder}/sig", f"{folder}/buckets", f"{folder}/gone"
        stages = [
            [read, MinhashDedupSignature(sig, config=config)],
            [MinhashDedupBuckets(sig, buckets, config=config)],
            [MinhashDedupCluster(buckets, f"{folder}/remove", config=config)],
            [
                read,
                MinhashDedupFilter(f"{folder}/remove", exclusion_writer=JsonlWriter(gone, compression=None)),
            ],
        ]
        took = []
        for i, stage in enumerate(stages):
            tasks = config.num_buckets if i == 1 else 1
            start = time.process_time()
            with contextlib.redirect_stderr(io.StringIO()):
                LocalPipelineExecutor(stage, tasks=tasks, logging_dir=f"{folder}/log{i}").run()
            took.append(time.process_time() - start)
        lines = [line for path in Path(gone).glob("*.jsonl") for line in path.read_text().splitlines()]
    return took[0], sum(took), {json.loads(line)["id"] for line in lines}


def pages(num: int) -> list[bytes]:
    """HTML pages of documentation, of 10 kB and more."""
    found = [
        content
        for package, pattern in (
            (linux_doc.PACKAGE, "./usr/share/doc/linux-doc-6.1/html/*.html"),
            (debian_reference.PACKAGE, "./usr/share/debian-reference/*.html"),
        )
        for _, content in fetch.members(package, pattern)
        if 10_000 < len(content) < 300_000
    ]
    return random.Random(2).sample(found, min(num, len(found)))


def extraction(html: list[bytes], rounds: int) -> tuple[float, float, int, int]:
    """Pages a second, ours and trafilatura's, and the characters that each found."""
    import trafilatura

    sides = (
        lambda page: extract.page(page, "")["text"],
        lambda page: trafilatura.extract(
            page, favor_precision=True, include_comments=False, deduplicate=True
        ),
    )
    took, chars = [0.0, 0.0], [0, 0]
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            start = time.process_time()
            chars[side] += sum(len(sides[side](page) or "") for page in html[i::rounds])
            took[side] += time.process_time() - start
    return len(html) / took[0], len(html) / took[1], *chars


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=int, default=2_800)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    docs = documents(args.docs)
    print(f"{len(docs)} documents, {sum(len(text) for _, text in docs) / 1e6:.1f} M characters\n", flush=True)
    print("| what | llmkit | peer | ratio |\n|---|---|---|---|")
    ours, peer = speed(docs, args.rounds)
    print(
        f"| chain of four filters, documents/s | {ours:,.0f} | {peer:,.1f} | {ours / peer:.1f} |", flush=True
    )
    mixed, pairs = copies(docs, args.copies)
    took, dropped = near_ours(mixed)
    first, all_four, gone = near_theirs(mixed)
    for name, seconds in (("signatures alone", first), ("all four stages", all_four)):
        rates = f"{len(mixed) / took:,.0f} | {len(mixed) / seconds:,.1f} | {seconds / took:.1f}"
        print(f"| near-duplicates, documents/s; peer: {name} | {rates} |", flush=True)
    hit = [sum(bool({copy, original} & found) for copy, original in pairs) for found in (dropped, gone)]
    print(f"| injected copies found, of {len(pairs)} | {hit[0]} | {hit[1]} | |")
    print(f"| documents dropped as near-duplicates | {len(dropped)} | {len(gone)} | |")
    html = pages(args.pages)
    a, b, ours_chars, peer_chars = extraction(html, args.rounds)
    print(f"| extraction, pages/s ({len(html)} pages) | {a:,.0f} | {b:,.1f} | {a / b:.1f} |")
    print(f"| characters found in them | {ours_chars:,} | {peer_chars:,} | |", flush=True)
    different = decisions(docs)
    print("\n| filter | equal decisions |\n|---|---|")
    for name in PEERS:
        num = sum(row[0] == name for row in different)
        print(f"| {name} | {100 * (1 - num / len(docs)):.2f} % ({num} of {len(docs)} differ) |")
    print("\nDifferences (filter, document, llmkit's reason, datatrove's):\n")
    for row in different:
        print("-", *row)


if __name__ == "__main__":
    main()

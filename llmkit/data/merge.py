"""The part of collecting that goes in order: duplicates, splits, and the files that are the result."""

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmkit.data import shapes
from llmkit.data.book import Book
from llmkit.data.collection import Collect
from llmkit.data.dedup import Seen
from llmkit.data.judge import Verdict, ask, placed, waits, written

EXCERPT = 200


class Merge:
    """Takes verdicts with their records, in order, and writes each record where it belongs."""

    def __init__(self, out: Path, settings: Collect, filters: dict[str, Any], stack: ExitStack):
        self.out, self.settings, self.filters = out, settings, filters
        self.found: dict[str, Counter] = {name: Counter() for name in filters}
        names = list(filters)
        waiting = [i for i, name in enumerate(names) if waits(filters[name])]
        self._last = names[waiting[0] :] if waiting else []
        self._sketched = [name for name in names if name not in self._last]
        self._seen = Seen()
        self._stack = stack
        self._files: dict[str, Any] = {}
        for name in ("train", "heldout", "rejected"):
            self._open(name)

    def take(self, book: Book, verdict: Verdict, line: bytes) -> None:
        """Count one record, and write it."""
        book.read += 1
        step, reason = verdict.step, verdict.reason
        side, text_bytes = verdict.side, verdict.text_bytes
        if verdict.digest and verdict.digest in self._seen:
            step, reason = "dedup", "duplicate"
        elif self.filters and step not in ("read", "clean"):
            step, reason = self._in_order(verdict)
            if self._last and not reason:
                record, step, reason = self._rest(json.loads(line))
                line = written(record, reason)
                side, text_bytes = (None, 0) if reason else placed(self.settings, record)
        if reason:
            book.rejected[step][reason] += 1
            record = json.loads(line)
            if step == "dedup" and verdict.text is not None:
                record["text"] = verdict.text
            self._reject(record, reason)
        else:
            book.count(side, text_bytes, verdict.licence)
            self._files[side].write(line)
            if book.wants_example():
                book.examples.append(shapes.content(self.settings.kind, json.loads(line))[:EXCERPT])

    def _in_order(self, verdict: Verdict) -> tuple[str | None, str | None]:
        """(step, reason) of the steps whose costly half is done, the first that rejects."""
        for name in self._sketched:
            self.found[name].update(verdict.found.get(name, {}))
            if name == verdict.step:
                break
            if name in verdict.sketches and (reason := self.filters[name].met(verdict.sketches[name])):
                return name, reason
        return verdict.step, verdict.reason

    def _rest(self, record: dict[str, Any]) -> tuple[dict[str, Any], str | None, str | None]:
        """(record, step, reason) after the steps that could not be asked about a record alone."""
        text = record["text"]
        for name in self._last:
            counted: dict[str, dict[str, int]] = {}
            filter = self.filters[name]
            if hasattr(filter, "sketch"):
                reason = filter.met(filter.sketch(text))
            else:
                text, reason = ask(filter, text, name, counted)
            self.found[name].update(counted.get(name, {}))
            if reason:
                return {**record, "text": text}, name, reason
        return {**record, "text": text}, None, None

    def _reject(self, record: dict[str, Any], reason: str) -> None:
        shown = {key: value for key, value in record.items() if key not in ("id", "source", "licence")}
        excerpt = record.get("excerpt") or json.dumps(shown)[:200]
        row = {"id": record.get("id"), "source": record["source"], "reason": reason, "excerpt": excerpt}
        self._files["rejected"].write(json.dumps(row).encode() + b"\n")
        if self.settings.keep_rejected:
            name = f"rejected/{reason}"
            (self._files.get(name) or self._open(name)).write(json.dumps(record).encode() + b"\n")

    def _open(self, name: str):
        path = self.out / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        self._files[name] = self._stack.enter_context(path.open("wb"))
        return self._files[name]

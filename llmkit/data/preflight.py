"""What is wrong with fine-tuning data, found before the first step: counted, named, and dealt with by policy.

record ─► found("unknown_role", record)? ─► drop: left out and counted
                                            keep: counted
                                            fail: counted; `settle` raises one DataError that names them all

A check that is a matter of taste drops or keeps by default; what makes a run worthless in silence fails.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field

from llmkit.config import Section
from llmkit.data import formats, shapes
from llmkit.data.dedup import normal
from llmkit.errors import DataError
from llmkit.log import say
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer

Policy = Literal["fail", "drop", "keep"]
Strict = Literal["fail", "drop"]


class Checks(Section):
    """What is done with a record, by what is found in it: fail, drop, or keep."""

    empty: Strict = Field("drop", description="records without a message")
    unknown_role: Strict = Field(
        "fail", description="records with an unknown role, or content that is no text"
    )
    prompts_differ: Strict = Field("fail", description="pairs whose two sides answer different prompts")
    overlap: Policy = Field("fail", description="training records whose prompt is held out too")
    template: Policy = Field(
        "fail",
        description="records whose prompt does not begin like the open one once it is answered: the chat "
        "template is not prefix-preserving",
    )
    double_bos: Policy = Field("fail", description="records that begin with two BOS tokens")
    without_reply: Strict = Field(
        "drop", description="records without a labelled token: no reply, or none marked by the template"
    )
    without_end: Policy = Field(
        "fail", description="records with a reply whose end token carries no label: nothing teaches to stop"
    )
    too_long: Strict = Field("drop", description="records whose every reply is lost to truncation at seq_len")
    cut: Policy = Field(
        "keep", description="records that lose a part of their replies to truncation at seq_len"
    )
    identical: Policy = Field("drop", description="pairs whose two replies have the same tokens")


class Preflight:
    """The findings of one split of one data set."""

    def __init__(self, checks: Checks, where: str, tokenizer: Tokenizer):
        self.checks, self.where = checks, where
        self.counts: Counter = Counter()
        self._first: dict[str, str] = {}
        self._tokenizer = tokenizer
        self._stop = chat.stop_ids(tokenizer)
        self._prefixes: dict[tuple[str, ...], bool] = {}
        self._heldout: set[int] = set()
        self._facts: tuple[Counter, str] = (Counter(), "records")

    def found(self, check: str, record: dict[str, Any], true: bool = True) -> bool:
        """Note that `check` is true of `record` -> whether the record is left out for it."""
        if not true:
            return False
        self.counts[check] += 1
        self._first.setdefault(check, str(record.get("id", f"number {sum(self.counts.values())}")))
        return getattr(self.checks, check) != "keep"

    # ---- checks ----------------------------------------------------------------------------------------

    def usable(self, kind: str, record: dict[str, Any]) -> bool:
        """Checks on what `record` of `kind`, in our own format, says: messages, roles, overlap, template."""
        messages = record["messages" if kind == "conversations" else "prompt"]
        roles = tuple(message.get("role") for message in messages)
        texts = [message.get("content") for message in messages]
        texts += [record[key] for key in ("chosen", "rejected", "reply") if key in record]
        known = set(roles) <= set(chat.ROLES) and all(isinstance(text, str) for text in texts)
        if self.found("empty", record, not messages) or self.found("unknown_role", record, not known):
            return False
        if self.found("overlap", record, bool(self._heldout) and _key(kind, record) in self._heldout):
            return False
        answered = roles if kind == "conversations" else (*roles, "assistant")
        return not self.found("template", record, not self._preserves_prefix(answered))

    def rendered(self, record: dict[str, Any], ids, learned) -> bool:
        """Checks on the tokens of a record and on which of them are `learned` (bool, equally long)."""
        bos = self._tokenizer.bos
        if self.found("double_bos", record, list(ids[:2]) == [bos, bos]):
            return False
        if self.found("without_reply", record, not any(learned)):
            return False
        return not self.found("without_end", record, not self._every_reply_ends(ids, learned))

    def _every_reply_ends(self, ids, learned) -> bool:
        """Every run of learned tokens holds one that stops generation."""
        flags = np.asarray(learned, bool)
        ids = np.asarray(ids)
        stops = flags & np.logical_or.reduce([ids == stop for stop in self._stop])
        starts = np.flatnonzero(flags & ~np.concatenate([[False], flags[:-1]]))
        return bool(np.logical_or.reduceat(stops, starts).all())

    def _preserves_prefix(self, roles: tuple[str, ...]) -> bool:
        """Whether what opens each reply is how the answered conversation begins.

        The template sees roles and placeholders, never what people wrote: one look per sequence of roles.
        """
        if roles not in self._prefixes:
            messages = [{"role": role, "content": "a"} for role in roles]
            whole, _ = chat.render(self._tokenizer, messages)
            openings = (
                chat.render(self._tokenizer, messages[:i], open_reply=True)[0]
                for i, role in enumerate(roles)
                if role == "assistant" and i
            )
            self._prefixes[roles] = all(whole[: len(opening)] == opening for opening in openings)
        return self._prefixes[roles]

    # ---- the end ---------------------------------------------------------------------------------------

    def hold_out(self, records: Iterator[tuple[str, dict[str, Any]]]) -> None:
        """Remember the prompts of (kind, held-out record), for `overlap`."""
        self._heldout = {_key(kind, record) for kind, record in records}

    def settle(self, counts: Counter, noun: str) -> None:
        """Say what was found if something must end the run, and end it: DataError, one line."""
        for check, n in self.counts.items():
            if getattr(self.checks, check) != "keep":
                counts[f"dropped_{check}"] = n
        self._facts = counts, noun
        wrong = [check for check in self.counts if getattr(self.checks, check) == "fail"]
        if wrong:
            for line in self.lines():
                say(line)
            what = "; ".join(f"{self._told(check)}" for check in wrong)
            raise DataError(f"{self.where}: {what}; mend them, or set data.checks.{wrong[0]}=drop")

    def dropped(self) -> str:
        """`3 without_reply, 1 too_long`: what was left out, for the line of a split with nothing left."""
        gone = {check: n for check, n in self.counts.items() if getattr(self.checks, check) == "drop"}
        return ", ".join(f"{n:,} {check}" for check, n in gone.items()) or "no record"

    def lines(self) -> list[str]:
        """The findings for the person who runs this, one a line; the checks without any together."""
        counts, noun = self._facts
        rows, tokens, labels = (counts[key] for key in ("rows", "tokens", "labels"))
        share = f" ({labels / tokens:.0%})" if tokens else ""
        facts = f"{counts[noun]:,} {noun}, {tokens:,} tokens, {labels:,} labelled{share}"
        facts += f", {rows:,} rows" if rows else ""
        out = [f"preflight: {self.where}: {facts}"]
        out += [f"  {getattr(self.checks, check)}: {self._told(check)}" for check in self.counts]
        none = [check for check in Checks.model_fields if check not in self.counts]
        return [*out, f"  nothing found: {', '.join(none)}"]

    def _told(self, check: str) -> str:
        description = Checks.model_fields[check].description
        return f"{self.counts[check]:,} {description} (first: {self._first[check]})"


def canonical(kind: str, record: dict[str, Any], flight: Preflight | None = None) -> Iterator[dict[str, Any]]:
    """`record` in our own format, whatever format it is in; nothing where `flight` (if any) drops it."""
    text, messages = str, list
    forms = {
        "conversations": {"messages": messages},
        "pairs": {"prompt": messages, "chosen": text, "rejected": text},
        "unpaired": {"prompt": messages, "reply": text, "desirable": bool},
    }
    if all(isinstance(record.get(key), type_) for key, type_ in forms[kind].items()):
        yield record
        return
    for found in formats.converted(record, kind):
        if "unreadable" not in found:
            yield found
        elif flight:
            reason = found["unreadable"]
            check = "empty" if reason.startswith("empty") else reason
            if check not in Checks.model_fields:
                raise DataError(f"{flight.where}: {record.get('id')}: {reason}; mend it, or leave it out")
            flight.found(check, record)


def _key(kind: str, record: dict[str, Any]) -> int:
    return xxhash.xxh3_64_intdigest(normal(shapes.prompt(kind, record)).encode())


def where(data: str, split: str) -> str:
    """The file of a split, as messages name it."""
    return str(Path(data) / f"{split}.jsonl")

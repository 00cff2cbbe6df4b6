"""The gate of every export: the directory on disk computes what the net in memory computes, or it goes.

    net, tokenizer, text ─► case: tokens, fp32 logits, activations, greedy replies, ids of 1,000 lines
    directory, case ─► reload.py: plain transformers, in a process of its own, llmkit blocked ─► found
    case, found ─► verdict: the figures, or ExportRefused with what departs, and at which layer first

Matching shapes and names prove nothing: a permuted rotary half or a lost norm weight passes both. So the
measure is the logits, in fp32, on real text. Two correct implementations differ by less than 5e-5 (the bound
of OLMo-core's tests against transformers); a missing rotary permutation is far above it. The ways in which
transformers computes attention differ by more in nets with large logits (5.6e-5 in SmolLM2-135M, whose logits
reach 36), so agreement with one of them is asked for, and both figures are published.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from llmkit.errors import ExportRefused
from llmkit.models.heads import LABELLED
from llmkit.tokenizer import chat
from llmkit.tokenizer.check import NASTY
from llmkit.tokenizer.vocabulary import Tokenizer

TOLERANCE = 5e-5
"""Largest absolute difference of fp32 logits."""
LINES = 1000
"""Held-out lines whose token ids are compared."""
PROBE_TOKENS = 48
"""Positions of the row on which every layer's output is compared."""
NEW_TOKENS = 24
"""Length of each greedy continuation."""
POOLED = ("score", "classify")
"""Heads that say something about a whole text: a decoder's at its last token."""
MAX_LOGITS = 1 << 25
"""Logits kept for the comparison, over all rows: bounds the memory of the gate to 128 MiB per copy."""


@dataclass
class Original:
    """What a directory is compared with. `trace` maps names of exported modules to modules of `net`."""

    net: Any
    head: str
    tokenizer: Tokenizer | None
    trace: dict[str, nn.Module]
    tied: bool
    base: str | None = None
    """What is proved is an adapter: the exported base that it is put on."""


def prove(folder: Path, original: Original, heldout: str | None) -> dict:
    """Reload `folder` elsewhere, compare, and return the figures; ExportRefused if anything departs.

    `original.net` is in fp32 and in evaluation mode, and holds the very values that were exported. `heldout`
    is raw text; without it the rows are random ids and only awkward strings are encoded, as the figures say.
    """
    case, tensors = build(original, heldout)
    return verdict(case, measure(folder, case, tensors))


# ---- what the original computes --------------------------------------------------------------------------


@torch.no_grad()
def build(original: Original, heldout: str | None) -> tuple[dict, dict]:
    """-> (plain facts, tensors): everything that the exported directory has to reproduce."""
    tokens, lengths = pick_rows(original, heldout)
    rows = [row[:n].tolist() for row, n in zip(tokens, lengths.tolist(), strict=True)]
    prompts = [row[: max(1, min(32, len(row) // 2))] for row in rows] if writes(original) else []
    ends = stop_ids(original.tokenizer)
    case = {
        "head": original.head,
        "tied": original.tied,
        "base": original.base,
        "labels": num_labels(original),
        "prompts": prompts,
        "new_tokens": NEW_TOKENS,
        "replies": [greedy(original, prompt, ends) for prompt in prompts],
        **(text_cases(original.tokenizer, heldout) if original.tokenizer else {}),
    }
    probe = tokens[:1, : min(PROBE_TOKENS, len(rows[0]))]
    logits = outputs(original, tokens, lengths)
    tensors = {"tokens": tokens, "lengths": lengths, "probe": probe, "logits": logits}
    if original.head == "seq2seq":  # every row is read by the encoder for the row after it
        tensors |= {"source": tokens.roll(1, 0), "source_lengths": lengths.roll(1, 0)}
    tensors |= {f"trace.{name}": value for name, value in activations(original, probe).items()}
    return case, {name: value.detach().cpu().clone() for name, value in tensors.items()}


def num_labels(original: Original) -> int | None:
    """How many outputs the head has; None for one that gives words."""
    return 1 if original.head == "score" else len(getattr(original.net, "labels", ())) or None


def pick_rows(original: Original, heldout: str | None, rows: int = 4, length: int = 256):
    """-> tokens (N, T), right-padded, and lengths (N,): text from different places, or random ids.

    With a tokenizer the rows have several lengths, so that the pad id is proved too. A pooled head is given
    whole conversations as well: their last token is where a wrong pad id would show.
    """
    tokenizer, vocab = original.tokenizer, original.net.settings.vocab_size
    length = min(length, original.net.settings.context, max(16, MAX_LOGITS // vocab))
    rows = max(1, min(rows, MAX_LOGITS // (vocab * length)))
    if heldout and tokenizer:
        starts = [i * len(heldout) // rows for i in range(rows)]
        cut = [[tokenizer.bos, *tokenizer.encode(heldout[s : s + 16 * length])][:length] for s in starts]
    else:
        generator = torch.Generator().manual_seed(0)
        cut = torch.randint(vocab, (rows, length), generator=generator).tolist()
    if tokenizer:
        cut = [ids[: max(1, len(ids) - i * (length // 8))] for i, ids in enumerate(cut)]
        cut += [case["ids"] for case in chats(tokenizer)] if original.head in POOLED else []
    tokens = torch.full((len(cut), max(map(len, cut))), tokenizer.pad if tokenizer else 0, dtype=torch.int64)
    for row, ids in zip(tokens, cut, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens, torch.tensor([len(ids) for ids in cut])


def outputs(original: Original, tokens, lengths):
    """Logits (N, T, V), zero past a row's length; of labels (N, T, L), of whole texts (N, L)."""
    net, ends = original.net, lengths.tolist()
    rows = [row[None, :n] for row, n in zip(tokens, ends, strict=True)]
    if original.head == "score":
        return torch.stack([net.scores(row)[0, -1:] for row in rows])
    if original.head == "classify":
        return torch.stack([net.label_logits(row)[0, 0] for row in rows])
    if original.head in LABELLED:
        return pad_sequence([net.label_logits(row)[0] for row in rows], batch_first=True)
    out = torch.zeros(*tokens.shape, net.settings.vocab_size)
    for i, n in enumerate(ends):
        source = {"source": tokens[i - 1][None, : ends[i - 1]]} if original.head == "seq2seq" else {}
        out[i, :n] = net.logits(net.hidden(tokens[i : i + 1, :n], **source))[0]
    return out


def activations(original: Original, tokens) -> dict:
    """The output of every traced module on `tokens` (1, T), by the exported module's name."""
    seen, handles = {}, []
    for name, module in original.trace.items():

        def keep(module, args, out, name=name):
            seen[name] = (out[0] if isinstance(out, tuple) else out).detach().clone()

        handles.append(module.register_forward_hook(keep))
    net, source = original.net, {"source": tokens} if original.head == "seq2seq" else {}
    if original.head in LABELLED:
        net.label_logits(tokens)
    else:
        hidden = net.hidden(tokens, **source)
        if original.head != "score":
            net.logits(hidden)
    for handle in handles:
        handle.remove()
    return seen


def writes(original: Original) -> bool:
    """True if the net writes texts, and it is known how one begins."""
    return original.head == "lm" or (original.head == "seq2seq" and original.tokenizer is not None)


def greedy(original: Original, prompt: list[int], ends: list[int]) -> dict:
    """The most likely continuation, one whole forward per token: what caches have to live up to.

    For an encoder-decoder, `prompt` is the source.

    -> {ids, whole}; not whole if it was cut where the two best tokens are within 20 tolerances, since
    rounding decides there. It ends after one of `ends`, or after NEW_TOKENS.
    """
    net, source, ids = original.net, {}, []
    if original.head == "seq2seq":
        source, prompt = {"source": torch.tensor([prompt])}, [getattr(original.tokenizer, net.settings.start)]
    while len(ids) < NEW_TOKENS and not (ids and ids[-1] in ends):
        best = net.logits(net.hidden(torch.tensor([prompt + ids]), **source)[:, -1:])[0, 0].topk(2)
        if best.values[0] - best.values[1] < 20 * TOLERANCE:
            return {"ids": ids, "whole": False}
        ids.append(int(best.indices[0]))
    return {"ids": ids, "whole": True}


def text_cases(tokenizer: Tokenizer, heldout: str | None) -> dict:
    """Texts and conversations with the ids that llmkit trains on.

    A text that spells a control token is marked `literal`: transformers keeps it text only if it is asked to.
    """
    lines = pick_lines(heldout) if heldout else []
    spelled = [text for name in tokenizer.specials for text in (name, f"a {name} b", f"{name}{name}\n")]
    texts = [*lines, *NASTY, *spelled]
    ids = tokenizer.encode_all(texts)
    return {
        "lines": len(lines),
        "texts": texts,
        "literal": [any(name in text for name in (*tokenizer.specials, "<unk>", "[UNK]")) for text in texts],
        "ids": ids,
        "decoded": [tokenizer.decode(some) for some in ids],
        "chats": chats(tokenizer),
    }


def pick_lines(text: str, wanted: int = LINES) -> list[str]:
    """`wanted` non-empty lines, evenly spread; if there are fewer, slices at arbitrary offsets fill up."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > wanted:
        return [lines[i * len(lines) // wanted] for i in range(wanted)]
    missing = wanted - len(lines)
    return lines + [text[i * len(text) // missing :][:200] for i in range(missing)]


def chats(tokenizer: Tokenizer) -> list[dict]:
    """Conversations and the ids that llmkit trains on; none if the tokenizer has no chat template."""
    if not has_chat(tokenizer):
        return []
    turns = [
        {"role": "user", "content": "How are  you?\n\tTell me."},
        {"role": "assistant", "content": "Fine \U0001f642, thank you."},
        {"role": "user", "content": " 12 + 7?"},
        {"role": "assistant", "content": "19"},
    ]
    cases = []
    for messages, open_reply in [(turns[:1], True), (turns[:2], False), (turns[:3], True), (turns, False)]:
        ids, _ = chat.render(tokenizer, messages, open_reply)
        cases.append({"messages": messages, "open_reply": open_reply, "ids": ids})
    return cases


def has_chat(tokenizer: Tokenizer) -> bool:
    """True if the tokenizer carries a chat template."""
    return (tokenizer.folder / "chat_template.jinja").is_file()


def stop_ids(tokenizer: Tokenizer | None) -> list[int]:
    """The ids that end a text or a reply."""
    if tokenizer is None:
        return []
    return chat.stop_ids(tokenizer) if has_chat(tokenizer) else [tokenizer.eos]


# ---- what the directory computes -------------------------------------------------------------------------


def measure(folder: Path, case: dict, tensors: dict) -> dict:
    """Run reload.py on `folder` in a fresh process -> what it found; ExportRefused if it cannot load it."""
    with tempfile.TemporaryDirectory(prefix="llmkit-gate-") as name:
        case_dir = Path(name)
        (case_dir / "case.json").write_text(json.dumps(case))
        save_file(tensors, case_dir / "case.safetensors")
        program = Path(__file__).with_name("reload.py")
        command = [sys.executable, "-P", str(program), str(folder.resolve()), name]
        child = subprocess.run(command, capture_output=True, text=True, cwd=name)
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1]
            raise ExportRefused(f"export: transformers cannot load it: {last}; nothing was published")
        return json.loads((case_dir / "found.json").read_text())


# ---- the verdict -----------------------------------------------------------------------------------------


def verdict(case: dict, found: dict) -> dict:
    """The figures that are published with an export; ExportRefused, worst first, if there is any fault."""
    figures = {
        "max_abs_logit_diff": next(iter(found["logit_diffs"].values())),
        "logit_diffs": found["logit_diffs"],
        "tolerance": TOLERANCE,
        "greedy_mismatches": sum(map(replies_differ, case["replies"], found["greedy"])),
        "greedy_tokens": sum(len(reply["ids"]) for reply in case["replies"]),
        "tied": found["tied"],
        "transformers": found["transformers"],
    }
    if "texts" in case:
        figures |= {
            "tokenizer_mismatches": len(differing(case, found)),
            "decode_mismatches": sum(a != b for a, b in zip(case["decoded"], found["decoded"], strict=True)),
            "chat_mismatches": sum(a["ids"] != b for a, b in zip(case["chats"], found["chats"], strict=True)),
            "lines": case["lines"],
            "strings": len(case["texts"]) - case["lines"],
            "conversations": len(case["chats"]),
        }
    if faults := [*model_faults(case, found, figures), *text_faults(case, found, figures)]:
        raise ExportRefused(f"export: {'; '.join(faults)}; nothing was published")
    return figures


def replies_differ(ours: dict, theirs: list[int]) -> bool:
    """True if a greedy continuation departs, as far as ours is determined."""
    return ours["ids"] != (theirs if ours["whole"] else theirs[: len(ours["ids"])])


def differing(case: dict, found: dict) -> list[str]:
    """The texts that the exported tokenizer encodes differently."""
    return [text for text, a, b in zip(case["texts"], case["ids"], found["ids"], strict=True) if a != b]


def model_faults(case: dict, found: dict, figures: dict) -> list[str]:
    """What is wrong with the exported weights and config, worst first."""
    faults = []
    if not any(amount <= TOLERANCE for amount in found["logit_diffs"].values()):  # NaN is a fault too
        amount, where = figures["max_abs_logit_diff"], first_departure(found["layers"])
        faults.append(f"logits differ by {amount:.2g} (at most {TOLERANCE:.0e}), first {where}")
    for kind, names in found["loading"].items():
        faults.append(f"transformers reports {kind.replace('_', ' ')}: {', '.join(names[:3])}")
    if found["tied"] != case["tied"]:
        faults.append(
            f"input and output embeddings are {'' if found['tied'] else 'not '}tied after reloading"
        )
    if len({json.dumps(rope, sort_keys=True) for rope in found["dialects"].values()}) > 1:
        faults.append(
            f"transformers 4 and 5 read different rotary settings in config.json: {found['dialects']}"
        )
    if figures["greedy_mismatches"]:
        faults.append(f"{figures['greedy_mismatches']} of {len(case['replies'])} greedy continuations differ")
    return faults


def text_faults(case: dict, found: dict, figures: dict) -> list[str]:
    """What is wrong with the exported tokenizer."""
    faults = []
    if figures.get("tokenizer_mismatches"):
        first = differing(case, found)[0][:60]
        faults.append(f"{figures['tokenizer_mismatches']} texts have other token ids, first {first!r}")
    if figures.get("decode_mismatches"):
        faults.append(f"{figures['decode_mismatches']} texts are decoded differently")
    if figures.get("chat_mismatches"):
        faults.append(f"apply_chat_template gives other ids in {figures['chat_mismatches']} conversations")
    return faults


def first_departure(layers: list) -> str:
    """`at model.layers.2.mlp (by 3e-01; ...)`, from [[module, largest difference, largest value], ...]."""
    before = "nothing before it"
    for name, difference, scale in layers:
        if not difference <= TOLERANCE * max(1.0, scale):
            return f"at {name} (by {difference:.1e}; {before})"
        before = f"{name} before it by {difference:.1e}"
    return "in the output head, after the last layer"

"""The gate in front of every export: the directory on disk has to compute what the net in memory computes, or go.

    net + tokenizer + held-out text ─► case/ (tokens, fp32 logits, activations, greedy replies, ids of 1,000 lines)
                                        │
    exported directory ─► reload.py: plain transformers, own process, llmkit blocked ─► found.json
                                        │
                             verdict ◄──┘   ExportRefused names what departs, and at which layer first

Matching shapes and names prove nothing: a permuted rotary half or a lost norm weight passes both and is wrong by a
little or by a lot. So the measure is the logits, in fp32, on real text; 5e-5 is what two correct implementations
differ by (the same bound as OLMo-core's tests against transformers), and planted faults are far above it.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from llmkit.errors import ExportRefused

TOLERANCE = 5e-5
"""Largest absolute difference of fp32 logits."""
LINES = 1000
"""Held-out lines whose token ids are compared."""
PROBE_TOKENS = 48
"""Positions of the row on which every layer's output is compared."""
NEW_TOKENS = 24
"""Length of each greedy continuation."""
MAX_LOGITS = 1 << 25
"""Logits kept for the comparison, over all rows: bounds the memory of the gate to 128 MiB per copy."""
CHILD_TIMEOUT_S = 1800

NASTY = (
    " leading space", "  two leading spaces", "double  spaces   inside", "trailing space ", "trailing spaces   ",
    "\ttab first", "tabs\tin\t\tbetween", "line\nbreak", "\n\nblank lines\n\n\nand an end\n", "windows\r\nlines\r\n",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 and flag \U0001f3f4\u200d\u2620\ufe0f",
    "caf\u00e9 cafe\u0301", "\ufb01ligature \uff26\uff35\uff2c\uff2c", "nbsp\u00a0here zero\u200bwidth \ufefffeff",
    "\u13a0\u13b8\u13b3\u13a9 \ua000\ua0b1 \U00012000\U00012079 \U0001f71b",  # Cherokee, Yi, cuneiform, alchemy
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "def f(x):\n    return x  # 12345 67.89", "\u2581 lower block \u2581\u2581", "\x00\x01\x7f control", " ", "",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "</s><s><unk><pad>", "a</s>b <s> c", "<|im_start|>user\nhi<|im_end|>\n",
)  # fmt: skip
"""What real text holds sooner or later. Literal special tokens among them are text, not markers."""


@dataclass
class Original:
    """What an exported directory is compared with. `trace` maps the exported modules' names to this net's modules."""

    net: nn.Module
    head: str
    tokenizer: object | None
    trace: dict[str, nn.Module]
    tied: bool
    max_len: int


def prove(folder: Path, original: Original, heldout: str | None) -> dict:
    """Reload `folder` elsewhere, compare, and return the figures; ExportRefused if anything departs.

    `original.net` is in fp32 and in evaluation mode, and holds the very values that were exported. `heldout` is raw
    text; without it the rows are random ids and only the nasty strings are encoded, which the result says.
    """
    case, tensors = build(original, heldout)
    found = measure(folder, case, tensors)
    report = summary(case, found)
    if faults := complaints(case, found, report):
        raise ExportRefused(f"{folder}: {'; '.join(faults)}; nothing was exported")
    return report


# ---- what the original computes ----------------------------------------------------------------------------------


@torch.no_grad()
def build(original: Original, heldout: str | None) -> tuple[dict, dict]:
    """-> (plain facts, tensors) that say everything the exported directory has to reproduce."""
    tokenizer = original.tokenizer
    lines = pick_lines(heldout) if heldout and tokenizer else []
    tokens, lengths = pick_rows(original, heldout)
    probe = tokens[:1, : min(PROBE_TOKENS, int(lengths[0]))]
    prompts = [row[: min(32, max(1, int(n) // 2))].tolist() for row, n in zip(tokens, lengths, strict=True)]
    eos = getattr(tokenizer, "eos", None)
    replies = [greedy(original.net, prompt, eos) for prompt in prompts] if original.head == "lm" else []
    tensors = {"tokens": tokens, "lengths": lengths, "probe": probe, "logits": outputs(original, tokens, lengths)}
    tensors |= {f"trace.{name}": value for name, value in activations(original, probe).items()}
    case = {
        "head": original.head, "tied": original.tied, "prompts": prompts, "replies": replies,
        "new_tokens": NEW_TOKENS, "lines": lines, "nasty": list(NASTY), "chats": [], "decode": [],
        "tokenizer": tokenizer is not None,
    }  # fmt: skip
    if tokenizer:
        case["line_ids"] = [tokenizer.encode(text) for text in lines]
        case["nasty_ids"] = [tokenizer.encode(text) for text in NASTY]
        case["decode"] = (case["line_ids"] + case["nasty_ids"])[-len(NASTY) - 50 :]
        case["decoded"] = [tokenizer.decode(ids) for ids in case["decode"]]
        case["chats"] = chats(tokenizer)
    return case, {name: value.detach().cpu().clone() for name, value in tensors.items()}


def pick_lines(text: str, wanted: int = LINES) -> list[str]:
    """`wanted` non-empty lines, evenly spread; if there are fewer lines, the rest are slices at arbitrary offsets."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > wanted:
        return [lines[i * len(lines) // wanted] for i in range(wanted)]
    missing = wanted - len(lines)
    width = max(1, min(200, len(text) // max(1, missing)))
    return lines + [text[i * len(text) // missing :][:width] for i in range(missing)]


def pick_rows(original: Original, heldout: str | None, rows: int = 4, length: int = 256):
    """-> tokens (N, T), right-padded, and lengths (N,): held-out text cut from different places, or random ids."""
    vocab = original.net.settings.vocab_size
    length = min(length, original.max_len, max(16, MAX_LOGITS // vocab))
    rows = max(1, min(rows, MAX_LOGITS // (vocab * length)))
    if heldout and original.tokenizer:
        starts = [i * len(heldout) // rows for i in range(rows)]
        cut = [original.tokenizer.encode(heldout[s : s + 16 * length])[:length] for s in starts]
    else:
        generator = torch.Generator().manual_seed(0)
        cut = [torch.randint(4, vocab, (length,), generator=generator).tolist() for _ in range(rows)]
    cut = [ids[: len(ids) - i * (length // 8)] or ids for i, ids in enumerate(cut)]  # so that padding is seen too
    pad = getattr(original.tokenizer, "pad", None) or 0
    tokens = torch.full((rows, max(map(len, cut))), pad, dtype=torch.int64)
    for row, ids in zip(tokens, cut, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens, torch.tensor([len(ids) for ids in cut])


def outputs(original: Original, tokens, lengths):
    """Logits (N, T, V), zero past a row's length; with a score head the last token's score (N, 1)."""
    if original.head == "score":
        scores = [original.net.scores(row[None, :n])[0, n - 1] for row, n in zip(tokens, lengths.tolist(), strict=True)]
        return torch.stack(scores).float()[:, None]
    out = torch.zeros(*tokens.shape, original.net.settings.vocab_size)
    for i, n in enumerate(lengths.tolist()):
        out[i, :n] = original.net.logits(original.net.hidden(tokens[i : i + 1, :n]))[0].float()
    return out


def activations(original: Original, tokens) -> dict:
    """The output of every traced module on `tokens` (1, T), by the exported module's name."""
    seen, handles = {}, []
    for name, module in original.trace.items():

        def keep(module, args, out, name=name):
            seen[name] = (out[0] if isinstance(out, tuple) else out).detach().float().clone()

        handles.append(module.register_forward_hook(keep))
    original.net.hidden(tokens)
    for handle in handles:
        handle.remove()
    return seen


def greedy(net: nn.Module, prompt: list[int], eos: int | None) -> list[int]:
    """The most likely continuation, one whole forward per token: the definition that caches have to live up to.

    Ends where the two best tokens are too close to call (within 20 tolerances), since rounding decides there.
    """
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW_TOKENS and (len(ids) == len(prompt) or ids[-1] != eos):
        best = net.logits(net.hidden(torch.tensor([ids]))[:, -1:])[0, 0].float().topk(2)
        if best.values[0] - best.values[1] < 20 * TOLERANCE:
            break
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :]


def chats(tokenizer) -> list[dict]:
    """Conversations and the ids that llmkit trains on; none if the tokenizer has no chat template."""
    from llmkit.tokenizer import chat

    if not getattr(tokenizer, "chat_template", None):
        return []
    turns = [
        {"role": "user", "content": "How are  you?\n\tTell me."},
        {"role": "assistant", "content": "Fine \U0001f642, thank you."},
        {"role": "user", "content": " 12 + 7?"},
        {"role": "assistant", "content": "19"},
    ]
    cases = [(turns[:1], True), (turns[:2], False), (turns[:3], True), (turns, False)]
    return [
        {"messages": messages, "open_reply": reply, "ids": chat.render(tokenizer, messages, open_reply=reply)[0]}
        for messages, reply in cases
    ]


# ---- what the directory computes ---------------------------------------------------------------------------------


def measure(folder: Path, case: dict, tensors: dict) -> dict:
    """Run reload.py on `folder` in a fresh process and return what it found; ExportRefused if it cannot load it."""
    with tempfile.TemporaryDirectory(prefix="llmkit-gate-") as name:
        case_dir = Path(name)
        (case_dir / "case.json").write_text(json.dumps(case))
        save_file(tensors, case_dir / "case.safetensors")
        command = [sys.executable, "-P", str(Path(__file__).with_name("reload.py")), str(folder), name]
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, cwd=name)
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1]
            raise ExportRefused(f"{folder}: transformers cannot load it: {last}; nothing was exported")
        return json.loads((case_dir / "found.json").read_text())


# ---- the verdict -------------------------------------------------------------------------------------------------


def summary(case: dict, found: dict) -> dict:
    """The figures that are published with an export."""
    report = {
        "max_abs_logit_diff": found["max_abs_logit_diff"],
        "tolerance": TOLERANCE,
        "greedy_mismatches": sum(a != b[: len(a)] for a, b in zip(case["replies"], found["greedy"], strict=True)),
        "greedy_tokens": sum(map(len, case["replies"])),
        "tied": found["tied"],
        "transformers": found["transformers"],
        "lines": len(case["lines"]),
        "nasty_strings": len(case["nasty"]) if case["tokenizer"] else 0,
    }
    if case["tokenizer"]:
        report |= {
            "tokenizer_mismatches": len(departing(case, found)),
            "decode_mismatches": sum(a != b for a, b in zip(case["decoded"], found["decoded"], strict=True)),
            "chat_mismatches": sum(a["ids"] != b for a, b in zip(case["chats"], found["chats"], strict=True)),
        }
    return report


def departing(case: dict, found: dict) -> list[str]:
    """The texts that the exported tokenizer encodes differently."""
    pairs = [*zip(case["lines"], case["line_ids"], found["lines"], strict=True)]
    pairs += zip(case["nasty"], case["nasty_ids"], found["nasty"], strict=True)
    return [text for text, ours, theirs in pairs if ours != theirs]


def complaints(case: dict, found: dict, report: dict) -> list[str]:
    """Everything that is wrong with the directory, worst first; empty if it may be published."""
    faults = []
    if not found["max_abs_logit_diff"] <= TOLERANCE:  # also true for NaN
        where = first_departure(found["layers"])
        faults.append(f"logits differ by {found['max_abs_logit_diff']:.2g} (at most {TOLERANCE:.0e}), first {where}")
    for kind, names in found["loading"].items():
        faults.append(f"transformers reports {kind.replace('_', ' ')}: {', '.join(names[:3])}")
    if found["tied"] != case["tied"] and case["head"] == "lm":
        faults.append(f"input and output embeddings are {'' if found['tied'] else 'not '}tied after reloading")
    if len({json.dumps(rope, sort_keys=True) for rope in found["dialects"].values()}) > 1:
        faults.append(f"config.json means different rotary embeddings to transformers 4 and 5: {found['dialects']}")
    if report["greedy_mismatches"]:
        faults.append(f"{report['greedy_mismatches']} of {len(case['replies'])} greedy continuations differ")
    if report.get("tokenizer_mismatches"):
        text = departing(case, found)[0]
        faults.append(f"the tokenizer encodes {report['tokenizer_mismatches']} texts differently, first {text[:60]!r}")
    if report.get("decode_mismatches"):
        faults.append(f"the tokenizer decodes {report['decode_mismatches']} texts differently")
    if report.get("chat_mismatches"):
        faults.append(f"apply_chat_template gives other ids in {report['chat_mismatches']} conversations")
    return faults


def first_departure(layers: list) -> str:
    """`at model.layers.2.mlp (3e-01; model.layers.2.self_attn before it 1e-07)`, from [[name, difference, scale]]."""
    before = "nothing before it"
    for name, difference, scale in layers:
        if not difference <= TOLERANCE * max(1.0, scale):
            return f"at {name} ({difference:.1e}; {before})"
        before = f"{name} before it {difference:.1e}"
    return "after the last traced layer, in the output head"

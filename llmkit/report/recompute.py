"""A few lines of plain transformers that give the page's bits per byte again."""

from html import escape
from pathlib import Path
from typing import Any

from llmkit.report import markup

LINES = """\
import math, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({export!r}, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained({export!r})
text = open({heldout!r}, encoding="utf-8", newline="").read(){cut}
tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
ids = torch.tensor([tokenizer.bos_token_id, *tokens])
window, nll = {window}, 0.0
for start in range(0, len(tokens), window):
    targets = ids[start + 1 : start + window + 1]
    with torch.no_grad():
        logits = model(ids[None, start : start + len(targets)]).logits[0].float()
    nll += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
print(nll / math.log(2) / len(text.encode()))
"""


def part(figures: dict[str, Any]) -> markup.Part:
    """The lines for this pipeline's export and held-out text; empty where either is missing."""
    text, data = figures.get("pretrain", {}), figures.get("data", {})
    if not all(key in text for key in ("export", "bits_per_byte")) or "heldout" not in data:
        return markup.part("recompute", "Check it yourself")
    heldout, measured = Path(data["heldout"]), text.get("bytes")
    whole = measured is None or (heldout.is_file() and heldout.stat().st_size == measured)
    cut = "" if whole else f".encode()[:{measured}].decode()"
    lines = LINES.format(export=text["export"], heldout=data["heldout"], window=text["window"], cut=cut)
    lead = f"These lines use no llmkit, and print {text['bits_per_byte']:.4f}."
    return markup.part("recompute", "Check it yourself", f"<pre>{escape(lines)}</pre>", lead=lead)

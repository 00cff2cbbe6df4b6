"""The other side of the export gate: plain transformers, in a process of its own, with llmkit blocked.

    python -P reload.py EXPORTED CASE        reads CASE/case.json and CASE/case.safetensors
                                             writes CASE/found.json: measurements only, no verdict

It is run as a file, so that nothing of llmkit can help the exported directory to load.
"""

import json
import os
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.modules["llmkit"] = None  # any import of it is now an ImportError
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
    warnings.simplefilter("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

AUTO = {"lm": transformers.AutoModelForCausalLM, "score": transformers.AutoModelForSequenceClassification}
DIALECTS = {"transformers 4": ("rope_parameters",), "transformers 5": ("rope_theta", "rope_scaling")}
"""The keys that the other version writes: without them the configuration must still mean the same."""


def load(folder: Path, head: str):
    """-> (model in fp32, what the loader complained about)."""
    model, info = AUTO[head].from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    return model.eval(), {kind: sorted(map(str, info[kind])) for kind in kinds if info.get(kind)}


def dialects(folder: Path, model) -> dict:
    """The rotary parameters that each dialect of config.json gives by itself."""
    config = json.loads((folder / "config.json").read_text())
    kind = type(model.config)
    read = {name: kind(**{k: v for k, v in config.items() if k not in other}) for name, other in DIALECTS.items()}
    return {name: getattr(made, "rope_parameters", None) for name, made in read.items()}


@torch.no_grad()
def departures(model, tokens, expected: dict) -> list:
    """[[module, largest difference, largest value]] for every traced module, in the order of the forward."""
    found, handles = [], []

    def compare(name):
        def hook(module, args, out):
            mine = (out[0] if isinstance(out, tuple) else out).float()
            theirs = expected[name].reshape(mine.shape)
            found.append([name, (mine - theirs).abs().max().item(), theirs.abs().max().item()])

        return hook

    for name in expected:
        handles.append(model.get_submodule(name).register_forward_hook(compare(name)))
    model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def logit_diff(model, case: dict) -> float:
    """Largest absolute difference of the logits (the pooled score of a reward model) over the held-out rows."""
    tokens, expected = case["tokens"], case["logits"]
    worst = 0.0
    for row, length, want in zip(tokens, case["lengths"].tolist(), expected, strict=True):
        if want.dim() == 1:  # pooled: the padded row itself is the input, so that the pad id is proved as well
            got = model(input_ids=row[None], attention_mask=(torch.arange(len(row)) < length)[None].long()).logits[0]
            worst = max(worst, (got - want).abs().max().item())
        else:
            got = model(input_ids=row[None, :length]).logits[0]
            worst = max(worst, (got - want[:length]).abs().max().item())
    return worst


@torch.no_grad()
def greedy(model, prompts: list, new_tokens: int) -> list:
    """What transformers' own generation adds to each prompt, without sampling."""
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, num_beams=1
        )
        out.append(made[0, len(prompt) :].tolist())
    return out


def encoded(tokenizer, case: dict) -> dict:
    """Ids of every text; with the literal special tokens in it read as text, as llmkit reads what users type."""
    plain = [tokenizer.encode(text, add_special_tokens=False) for text in case["lines"]]
    nasty = [tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in case["nasty"]]
    chats = [
        tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=chat["open_reply"], return_dict=False)
        for chat in case["chats"]
    ]
    decoded = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in case["decode"]]
    return {"lines": plain, "nasty": nasty, "chats": chats, "decoded": decoded}


def examine(folder: Path, case: dict, tensors: dict) -> dict:
    """Everything that is measured on the exported `folder`."""
    torch.manual_seed(0)
    model, complaints = load(folder, case["head"])
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    trace = {name.removeprefix("trace."): value for name, value in tensors.items() if name.startswith("trace.")}
    found = {
        "transformers": transformers.__version__,
        "loading": complaints,
        "dialects": dialects(folder, model),
        "tied": outputs is not None and inputs.weight.data_ptr() == outputs.weight.data_ptr(),
        "max_abs_logit_diff": logit_diff(model, tensors),
        "layers": departures(model, tensors["probe"], trace),
        "greedy": greedy(model, case["prompts"], case["new_tokens"]) if case["head"] == "lm" else [],
    }
    if case["tokenizer"]:
        found |= encoded(transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), case)
    return found


def main(folder: Path, case_dir: Path) -> None:
    case = json.loads((case_dir / "case.json").read_text())
    found = examine(folder, case, load_file(case_dir / "case.safetensors"))
    (case_dir / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

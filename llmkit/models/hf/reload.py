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

import torch
import transformers
from safetensors.torch import load_file

AUTO = {
    "lm": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "score": transformers.AutoModelForSequenceClassification,
    "classify": transformers.AutoModelForSequenceClassification,
    "tag": transformers.AutoModelForTokenClassification,
    "span": transformers.AutoModelForQuestionAnswering,
}
DIALECTS = {
    "transformers 4": ("rope_parameters", "layer_types"),
    "transformers 5": (
        "rope_theta",
        "rope_scaling",
        "global_rope_theta",
        "local_rope_theta",
        "global_attn_every_n_layers",
    ),
}
"""The keys that the other version writes: without them the configuration must still mean the same."""


def load(folder: Path, case: dict):
    """-> (model in fp32, what the loader complained about)."""
    if case.get("base"):
        return load_adapter(folder, case)
    model, info = AUTO[case["head"]].from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    return model.eval(), {kind: sorted(map(str, info[kind])) for kind in kinds if info.get(kind)}


def load_adapter(folder: Path, case: dict):
    """-> (the exported base in fp32 with the adapter on, tensors of its file that were not taken)."""
    import peft

    labels = {"num_labels": case["labels"]} if case["labels"] else {}
    base = AUTO[case["head"]].from_pretrained(
        case["base"], dtype=torch.float32, use_safetensors=True, local_files_only=True, **labels
    )
    both = peft.PeftModel.from_pretrained(base, folder)
    taken = set(peft.get_peft_model_state_dict(both))
    left = taken ^ set(load_file(folder / "adapter_model.safetensors"))
    return both.eval().get_base_model(), {"unexpected_keys": sorted(left)} if left else {}


def dialects(folder: Path, model) -> dict:
    """The rotary parameters that each dialect of config.json gives alone, to a version that knows both."""
    if int(transformers.__version__.partition(".")[0]) < 5 or not (folder / "config.json").is_file():
        return {}
    config = json.loads((folder / "config.json").read_text())
    found = {}
    for name, others in DIALECTS.items():
        read = type(model.config)(**{key: value for key, value in config.items() if key not in others})
        found[name] = [getattr(read, key, None) for key in ("rope_parameters", "layer_types")]
    return found


@torch.no_grad()
def departures(model, inputs: dict, expected: dict) -> list:
    """[[module, largest difference, largest value]] of every traced module, in order of the forward."""
    found, handles = [], []

    def compare(name):
        def hook(module, args, out):
            mine = (out[0] if isinstance(out, tuple) else out).float()
            theirs = expected[name].reshape(mine.shape)
            found.append([name, (mine - theirs).abs().max().item(), theirs.abs().max().item()])

        return hook

    for name in expected:
        handles.append(model.get_submodule(name).register_forward_hook(compare(name)))
    model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def logit_diffs(model, tensors: dict) -> dict[str, float]:
    """The largest difference with each way in which transformers computes attention, its default first."""
    found = {model.config._attn_implementation: logit_diff(model, tensors)}
    default = next(iter(found))
    model.set_attn_implementation("eager")
    found["eager"] = logit_diff(model, tensors)
    model.set_attn_implementation(default)
    return found


@torch.no_grad()
def logit_diff(model, case: dict) -> float:
    """Largest absolute difference of logits, or of those of whole texts, over all rows; NaN stays NaN.

    A row that is judged as a whole is given with its padding, so that the pad id is proved as well.
    """
    worst = torch.tensor(0.0)
    for i, length in enumerate(case["lengths"].tolist()):
        row, want = case["tokens"][i], case["logits"][i]
        if "source" in case:
            source = case["source"][i][None, : case["source_lengths"][i]]
            got, want = model(input_ids=source, decoder_input_ids=row[None, :length]).logits[0], want[:length]
        elif want.dim() == 1:
            mask = (torch.arange(len(row)) < length).long()
            got = model(input_ids=row[None], attention_mask=mask[None]).logits[0]
        else:
            out = model(input_ids=row[None, :length])
            ends = "start_logits" in out
            logits = torch.stack([out.start_logits, out.end_logits], -1) if ends else out.logits
            got, want = logits[0], want[:length]
        worst = torch.maximum(worst, (got - want).abs().max())
    return worst.item()


@torch.no_grad()
def greedy(model, prompts: list, new_tokens: int) -> list:
    """What transformers' own generation adds to each prompt, without sampling."""
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        read = 1 if model.config.is_encoder_decoder else len(prompt)  # the start of the target, or the prompt
        out.append(made[0, read:].tolist())
    return out


def encoded(tokenizer, case: dict) -> dict:
    """Ids of every text and conversation, and the texts that the ids stand for."""
    ids = [
        tokenizer.encode(text, add_special_tokens=False, split_special_tokens=literal)
        for text, literal in zip(case["texts"], case["literal"], strict=True)
    ]
    chats = [
        tokenizer.apply_chat_template(c["messages"], add_generation_prompt=c["open_reply"], return_dict=False)
        for c in case["chats"]
    ]
    decoded = [tokenizer.decode(some, clean_up_tokenization_spaces=False) for some in case["ids"]]
    return {"ids": ids, "chats": chats, "decoded": decoded}


def examine(folder: Path, case: dict, tensors: dict) -> dict:
    """Everything that is measured on the exported `folder`."""
    torch.manual_seed(0)
    model, complaints = load(folder, case)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    probe = {"input_ids": tensors["probe"]}
    if "source" in tensors:
        probe["decoder_input_ids"] = tensors["probe"]
    trace = {name[6:]: value for name, value in tensors.items() if name.startswith("trace.")}
    found = {
        "transformers": transformers.__version__,
        "loading": complaints,
        "dialects": dialects(folder, model),
        "tied": outputs is not None and inputs.weight.data_ptr() == outputs.weight.data_ptr(),
        "logit_diffs": logit_diffs(model, tensors),
        "layers": departures(model, probe, trace),
        "greedy": greedy(model, case["prompts"], case["new_tokens"]),
    }
    if "texts" in case:
        found |= encoded(transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), case)
    return found


def main(folder: Path, case_dir: Path) -> None:
    case = json.loads((case_dir / "case.json").read_text())
    found = examine(folder, case, load_file(case_dir / "case.safetensors"))
    (case_dir / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

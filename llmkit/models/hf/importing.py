"""`llmkit import HF_DIR OUT`: a foreign Hugging Face directory as a checkpoint, through a narrow door.

    config.json   ─► allow-listed keys and types ─► our own Settings ─► our own net: their code is never run
    *.safetensors ─► header checked by hand ─► tensors renamed ─► fragments, published like any checkpoint
    X.gguf        ─► the same, from a file of llama.cpp: gguf.py

OUT becomes a run directory whose only checkpoint is step 0: it can be opened, tuned, evaluated and exported.
"""

import re
import shutil
import tempfile
from pathlib import Path

import yaml
from torch import nn

from llmkit import manifest, registry, trust
from llmkit.checkpoint import fragments
from llmkit.checkpoint.store import Store
from llmkit.config import parse_yaml
from llmkit.errors import CheckpointError, ConfigError, LlmkitError, TrustError
from llmkit.log import say, warn
from llmkit.models.blocks import initialise
from llmkit.models.heads import LabelNet, kind
from llmkit.models.hf import labels, weights
from llmkit.tokenizer.export import FILES
from llmkit.tokenizer.vocabulary import Tokenizer

COUNT_LIMIT = 10**7
"""No width, depth or vocabulary of a sane model is larger."""


def work(hf_dir: str | Path, out: Path) -> dict:
    """Make `out` a run directory that holds the model in `hf_dir` -> its manifest.

    Raises TrustError for anything that could run code, CheckpointError for tensors that do not fit,
    ConfigError if `out` holds a checkpoint already.
    """
    source, out = Path(hf_dir), Path(out)
    if Store(out / "checkpoints").published():
        raise ConfigError(f"{out}: holds a checkpoint already; import into another directory")
    if source.suffix == ".gguf":
        return _gguf(source, out)
    net, facts = read(source), lineage(source)
    return _published(net, source, out, source, facts, family_in(source).model_type)


def _gguf(file: Path, out: Path) -> dict:
    """The same for a file of llama.cpp, whose tokenizer is converted on the way."""
    from llmkit.models.hf import gguf

    net, facts = gguf.read(file)
    with tempfile.TemporaryDirectory(prefix="llmkit-gguf-") as folder:
        gguf.write_tokenizer(file, Path(folder))
        return _published(net, file, out, Path(folder), facts, "llama")


def _published(net: nn.Module, source: Path, out: Path, tokenizer: Path, facts: dict, family: str) -> dict:
    path = save(net, out, tokenizer, facts)
    manifest.write(
        out,
        verb="import",
        config={"source": str(source), "family": family},
        status="done",
        counts={"parameters": sum(p.numel() for p in net.parameters())},
        licences=facts["sources"],
        result={"fingerprint": manifest.digest(manifest.read(path)["files"])},
    )
    say(f"imported {source} to {out}")
    return manifest.read(out)


def save(net: nn.Module, out: Path, tokenizer: Path | None, facts: dict) -> Path:
    """Publish `net` as step 0 of the run directory `out`, with the tokenizer that is in `tokenizer`."""
    recipe = {"model": net.settings.model_dump(mode="json"), "run": {"steps": 0}}
    if isinstance(net, LabelNet):
        recipe["objective"] = {"name": net.head, "labels": list(net.labels), "several": net.several}
    state = {"step": 0, "optimizer_steps": {"model": 0}, "objective": {}}

    def write(staging: Path) -> list[str]:
        pieces = ((name, p.shape, 0, {"param": p.detach().view(-1)}) for name, p in net.named_parameters())
        files = [fragments.write(staging, 0, fragments.of_net("model", pieces))]
        files.append(fragments.write_index(staging))
        (staging / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        manifest.write_json(staging / "state.json", state)
        copied = copy_tokenizer(tokenizer, staging / "tokenizer") if tokenizer else []
        fingerprint = {"tokenizer": manifest.fingerprint(staging / "tokenizer")} if copied else {}
        manifest.write_json(staging / "lineage.json", facts | fingerprint)
        return [
            *files,
            "recipe.yaml",
            "state.json",
            "lineage.json",
            *(f"tokenizer/{name}" for name in copied),
        ]

    return Store(out / "checkpoints", max_failed=1).save(0, write)


def copy_tokenizer(source: Path, out: Path) -> list[str]:
    """Copy the tokenizer of `source`, with a manifest that states its fingerprint -> names; [] if none."""
    names = [name for name in FILES if (source / name).is_file()]
    if not {"tokenizer.model", "tokenizer.json"} & set(names):
        return []
    out.mkdir()
    for name in names:
        shutil.copyfile(source / name, out / name)
    fingerprint = Tokenizer.load(out).fingerprint
    manifest.write(out, verb="import", status="done", result={"fingerprint": fingerprint})
    return [*names, manifest.NAME]


def read(folder: Path) -> nn.Module:
    """The net in a Hugging Face directory, as one of ours, in the dtype of its file."""
    from llmkit.opened import build, fill

    family = family_in(folder)
    config = trust.plain_config(folder / "config.json", family.allowed)
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and not -1 <= value <= COUNT_LIMIT:
            raise TrustError(f"{folder / 'config.json'}: {key} is {value}; no model has that")
    try:
        settings = family.settings(config)
    except ValueError as error:  # pydantic's, from numbers that do not fit together
        raise ConfigError(f"{folder / 'config.json'}: {_rule(error)}") from None
    refuse_pickles(folder)
    for file in weights.files(folder):
        trust.tensor_header(file)
    shapes, stated = weights.shapes(folder), trust.plain_config(folder / "config.json", labels.STATED)
    head, outputs = head_of(family, shapes, stated)
    tensors: dict = {}
    for name, tensor in weights.read(folder):
        if outputs and (ours := labels.ours(family.heads, head, name)):
            tensors[ours] = tensor
            continue
        for ours, part in family.take(name, tensor):
            if ours in tensors and not part.equal(tensors[ours]):
                raise CheckpointError(
                    f"{folder}: {name} differs from another tensor that it should be equal to"
                )
            tensors[ours] = part
    if hasattr(family, "settle"):
        settings = family.settle(settings, tensors)
    net = build(settings, head, outputs)
    if outputs or head == "score":
        own = dict(net.named_parameters())
        tensors = {name if name in own else f"trunk.{name}": tensor for name, tensor in tensors.items()}
    if outputs:
        labels.settle(net, stated)
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    untie(tensors, net, folder)
    if kind(net) == "masked" and not any(name.startswith("lm_head.") for name in tensors):
        warn(f"{folder}: has no head that guesses masked tokens; a fresh one is drawn, to be trained first")
        fresh = initialise(build(settings, head), seed=0).named_parameters()
        tensors |= {name: p.detach() for name, p in fresh if name.startswith("lm_head.")}
    fill(net, tensors, folder)
    return net


def head_of(family, shapes: dict[str, tuple[int, ...]], stated: dict) -> tuple[str, int | None]:
    """What the net of a foreign directory ends in, and in how many labels, if it is labels.

    One number for a whole text is a score; a decoder's has a net of its own.
    """
    head = labels.head_in(stated)
    if head is None:
        return "score" if "score.weight" in shapes else "lm", None
    matrix = f"{family.heads.get(head, 'score')}.weight"
    if matrix not in shapes:
        raise CheckpointError(f"config.json states {stated['architectures'][0]}, but there is no {matrix}")
    outputs = shapes[matrix][0]
    if head == "classify" and outputs == 1:
        return "score", 1 if "score" in family.heads else None
    return head, outputs


def _rule(error: ValueError) -> str:
    """The rule that pydantic found broken, without its frame."""
    return str(error).splitlines()[-2].strip().removeprefix("Value error, ").partition(" [type=")[0]


def family_in(folder: Path):
    """The family whose `model_type` config.json states. ConfigError if llmkit has no such net."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: holds no config.json; it is not a Hugging Face directory")
    kind = trust.plain_config(path, {"model_type": str}).get("model_type")
    families = [registry.find("export", name) for name in registry.names("export")]
    for family in families:
        if family.model_type == kind:
            return family
    known = ", ".join(family.model_type for family in families)
    raise ConfigError(f"{path}: model_type {kind!r} is none that llmkit has a net for; known: {known}")


def refuse_pickles(folder: Path) -> None:
    """TrustError if the weights are there in a format that runs code, and in no other."""
    if (folder / weights.SINGLE).is_file() or (folder / weights.INDEX).is_file():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt") and path.is_file():
            raise TrustError(f"{path}: weights in this format can run code; llmkit reads safetensors only")


def untie(tensors: dict, net: nn.Module, folder: Path) -> None:
    """Drop the second copy of a tied embedding, if the file has one and it is the same."""
    extra = tensors.get("lm_head.weight")
    if extra is None or "lm_head.weight" in net.state_dict():
        return
    if not extra.equal(tensors["embed_tokens.weight"]):
        raise CheckpointError(
            f"{folder}: lm_head.weight differs from the embedding that config.json ties it to"
        )
    del tensors["lm_head.weight"]


def lineage(folder: Path) -> dict:
    """What a foreign directory says about its origin: its name, and the licence in its model card."""
    licence = "not stated"
    card = folder / "README.md"
    if card.is_file() and card.stat().st_size < 1 << 20:
        front = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        try:
            stated = parse_yaml(front[1], str(card)) if front else {}
            licence = str(stated.get("license") or licence) if isinstance(stated, dict) else licence
        except LlmkitError:
            pass  # a card is for people; what cannot be read is not stated
    return {
        "sources": {folder.resolve().name: {"licence": licence, "origin": "imported Hugging Face directory"}}
    }

"""Adapters exported: the sum is what both are side by side, peft's own loader computes the same, or neither
is published.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from llmkit import adapted, manifest, verbs
from llmkit.checkpoint import fragments
from llmkit.checkpoint.store import Store
from llmkit.errors import ConfigError, ExportRefused
from llmkit.models import adapter, lora
from llmkit.models.adapter import Adapter
from llmkit.models.hf import importing
from llmkit.opened import open_model, resolve
from tests.models.test_lora import learned
from tests.nets import random_net

ALONE = {"form": "adapter"}
HELDOUT = (Path(__file__).parents[3] / "LICENSE").read_text()[-3000:]


def tame_net(head: str = "lm") -> torch.nn.Module:
    """In a wilder one the rounding of a sum alone grows to 1e-5 on the way through the layers."""
    return random_net(head, init_std=0.05)


def saved(folder: Path, name: str, tokenizer_dir: Path, head: str = "lm", **settings) -> Path:
    """A run directory with an adapter on the base in folder/base, as training leaves one."""
    base, run = folder / "base", folder / name
    if not base.exists():
        importing.save(tame_net(), base, tokenizer_dir, {"sources": {}})
    described = Adapter(name=name, **{"rank": 3, **settings})
    net = learned(lora.inject(tame_net(head), described), seed=len(name))
    path = resolve(base)
    noted = adapted.note(path, manifest.digest(manifest.read(path)["files"]), run)
    shape = tame_net().settings.model_dump(mode="json")

    def write(staging: Path) -> list[str]:
        pieces = ((key, p.shape, 0, {"param": p.detach().view(-1)}) for key, p in net.named_parameters())
        files = [fragments.write(staging, 0, fragments.of_net("model", adapter.kept(net, pieces)))]
        recipe = {"model": shape, "adapter": described.model_dump(), "init": str(base), "run": {"steps": 1}}
        (staging / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        manifest.write_json(staging / "lineage.json", {"sources": {}, "bases": {"model": noted}})
        copied = importing.copy_tokenizer(tokenizer_dir, staging / "tokenizer")
        files += [fragments.write_index(staging), "recipe.yaml", "lineage.json"]
        return [*files, *(f"tokenizer/{file}" for file in copied)]

    Store(run / "checkpoints", max_failed=1).save(1, write)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_dir) -> Path:
    """Two adapters of a language model and one of a reward model on one base, which is exported."""
    folder = tmp_path_factory.mktemp("adapters")
    saved(folder, "poet", tokenizer_dir)
    saved(folder, "clerk", tokenizer_dir, kind="dora", rslora=True, targets="attention")
    saved(folder, "reward", tokenizer_dir, head="score")
    (folder / "heldout.txt").write_text(HELDOUT)
    export(folder, "base", "hub")
    return folder


def export(folder: Path, ckpt: str, out: str, **settings) -> dict:
    asked = {"ckpt": str(folder / ckpt), "heldout": str(folder / "heldout.txt"), "out": str(folder / out)}
    return verbs.perform("export", {}, asked | settings, verbs.Options())["result"]


@pytest.mark.slow
def test_an_adapter_in_pefts_format_and_its_sum_compute_the_same(folder):
    for name, out, form in (
        ("poet", "merged/poet", {}),
        ("poet", "adapters/poet", ALONE),
        ("clerk", "adapters/clerk", ALONE),
    ):
        base = {"base": str(folder / "hub")} if form else {}
        figures = export(folder, name, out, **form, **base)
        assert figures["merge_diff"] <= 1e-5
        assert figures["max_abs_logit_diff"] <= 5e-5
        assert figures["greedy_mismatches"] == figures["tokenizer_mismatches"] == 0
    written = {file.name for file in (folder / "adapters/poet").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "chat_template.jinja"} <= written
    assert "model.safetensors" not in written
    stated = json.loads((folder / "adapters/poet/adapter_config.json").read_text())
    assert stated["target_modules"] == sorted(Adapter().modules)
    found = json.loads(
        subprocess.run(
            [sys.executable, "-P", "-c", PEFT, str(folder)],
            capture_output=True, check=True, text=True, timeout=300,
        ).stdout
    )  # fmt: skip
    ids = torch.tensor([list(range(4, 40))])
    with torch.no_grad():
        for name in ("poet", "clerk"):
            net = open_model(folder / name).net
            ours = net.logits(net.hidden(ids))[0]
            for there in (name, "merged")[: 1 + (name == "poet")]:
                assert (torch.tensor(found[there]) - ours).abs().max() <= 5e-5


PEFT = """
import json, sys
sys.modules["llmkit"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
folder, found = sys.argv[1], {}
base = AutoModelForCausalLM.from_pretrained(f"{folder}/hub", dtype=torch.float32)
model = PeftModel.from_pretrained(base, f"{folder}/adapters/poet", adapter_name="poet")
model.load_adapter(f"{folder}/adapters/clerk", adapter_name="clerk")
ids = torch.tensor([list(range(4, 40))])
with torch.no_grad():
    for name in ("clerk", "poet"):
        model.set_adapter(name)
        found[name] = model(ids).logits[0].tolist()
    merged = AutoModelForCausalLM.from_pretrained(f"{folder}/merged/poet", dtype=torch.float32)
    found["merged"] = merged(ids).logits[0].tolist()
json.dump(found, sys.stdout)
"""


@pytest.mark.slow
def test_a_reward_models_head_stays_with_it_merged_or_not(folder):
    head = fragments.Reader(resolve(folder / "reward")).tensor("model/score.weight")
    export(folder, "reward", "merged/reward")  # done once, whichever test comes first
    export(folder, "reward", "adapters/reward", form="adapter", base=str(folder / "hub"))
    merged = load_file(folder / "merged/reward/model.safetensors")
    alone = load_file(folder / "adapters/reward/adapter_model.safetensors")
    assert torch.equal(merged["score.weight"], head)
    assert torch.equal(alone["base_model.model.score.weight"], head)
    again = open_model(folder / "merged/reward", head="score").net
    assert torch.equal(again.score.weight, head)


@pytest.mark.slow
@torch.no_grad()
def test_the_pipeline_of_an_exported_reward_model_gives_its_raw_scores(folder):
    """In a process without llmkit, whichever side is padded, one text at a time or eight at once."""
    export(folder, "reward", "merged/reward")
    texts = [f"{'A licence is granted. ' * n}You may not." for n in range(8)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PIPELINE, str(folder / "merged/reward"), json.dumps(texts)],
        capture_output=True, check=True, text=True, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    opened = open_model(folder / "reward", head="score")
    ours = [float(opened.net.scores(torch.tensor([ids]))[0, -1]) for ids in found.pop("ids")]
    assert len(found) == 4
    for case, scores in found.items():
        assert scores == pytest.approx(ours, abs=1e-5 * max(map(abs, ours))), case
    assert max(ours) - min(ours) > 0.1


PIPELINE = """
import json, sys
sys.modules["llmkit"] = None
from transformers import AutoTokenizer, pipeline
folder, texts, found = sys.argv[1], json.loads(sys.argv[2]), {}
for side in ("left", "right"):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    run = pipeline("text-classification", folder, tokenizer=tokenizer)
    for size in (1, 8):
        found[f"{side} {size}"] = [out["score"] for out in run(texts, batch_size=size)]
found["ids"] = [tokenizer(text).input_ids for text in texts]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_sum_that_is_not_what_was_trained_is_refused_and_leaves_nothing(folder, monkeypatch):
    honest = adapter.merged
    monkeypatch.setattr(adapted, "merged", lambda w, a, b, m, scale: honest(w, a, b, m, scale * 1.001))
    with pytest.raises(ExportRefused, match="away from base and adapter side by side") as caught:
        export(folder, "poet", "refused")
    assert caught.value.code == 7
    assert not (folder / "refused").exists()


@pytest.mark.slow
def test_an_adapter_on_another_base_is_refused(folder, tmp_path):
    shutil.copytree(folder / "hub", tmp_path / "hub")
    tensors = load_file(tmp_path / "hub/model.safetensors")
    tensors["model.norm.weight"] += 0.01
    save_file(tensors, tmp_path / "hub/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportRefused, match="logits differ"):
        export(folder, "poet", "refused", form="adapter", base=str(tmp_path / "hub"))
    assert not (folder / "refused").exists()


def test_what_cannot_be_exported_so_says_why(folder):
    with pytest.raises(ConfigError, match="form: .* has no adapter; leave form out"):
        export(folder, "base", "x", form="adapter")
    with pytest.raises(ConfigError, match="run `llmkit export BASE DIR`, then give base=DIR"):
        export(folder, "poet", "x", form="adapter")

"""A small trained tokenizer, and nets with weights wild enough that every fault shows."""

import json
from pathlib import Path

import pytest
import torch

from llmkit import manifest
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import with_head

LICENCE = Path(__file__).parents[3] / "LICENSE"


@pytest.fixture(scope="session")
def heldout() -> str:
    return LICENCE.read_text()[-4000:]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A vocabulary of 400 pieces, trained on the licence."""
    from llmkit.tokenizer import train

    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("tokenizer")
    record = {"id": "1", "source": "licence", "text": LICENCE.read_text()}
    for split in ("train", "heldout"):
        (data / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    result = train.work(train.TokenizerSpec(data=str(data), vocab_size=400, check_lines=10), out)
    manifest.write(out, verb="tokenizer.train", status="done", result=result)
    return out


def random_net(head: str = "lm", **changes) -> torch.nn.Module:
    """A decoder of 400 pieces whose norms and head are far from their initial ones and zeros."""
    sizes = {"width": 48, "layers": 3, "heads": 4, "kv_heads": 2, "vocab_size": 400, "context": 128, "init_std": 0.2}
    net = initialise(with_head(Decoder(Settings(**(sizes | changes))), head), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for name, p in net.named_parameters():
        if p.ndim == 1:
            p.data.uniform_(0.5, 1.5, generator=generator)
        elif name == "score.weight":
            p.data.normal_(generator=generator)
    return net

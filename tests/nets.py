"""Small nets whose weights are wild enough that every fault shows."""

import torch

from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.encoder import Encoder
from llmkit.models.heads import with_head


def random_net(head: str = "lm", outputs: int | None = None, **changes) -> torch.nn.Module:
    """A decoder of 400 pieces whose norms and head are far from their initial ones and zeros."""
    sizes = {"width": 48, "layers": 3, "heads": 4, "kv_heads": 2, "vocab_size": 400, "context": 128}
    return wild(with_head(Decoder(Settings(**(sizes | {"init_std": 0.2} | changes))), head, outputs))


def random_encoder(head: str = "lm", outputs: int | None = None, **changes) -> torch.nn.Module:
    """An encoder of 400 pieces, as wild."""
    sizes = {"width": 48, "layers": 3, "heads": 4, "vocab_size": 400, "context": 128, "init_std": 0.2}
    return wild(with_head(Encoder(Encoder.Settings(**(sizes | changes))), head, outputs))


def wild(net: torch.nn.Module) -> torch.nn.Module:
    """`net` with initial weights, but norms and biases between 0.5 and 1.5; in evaluation mode."""
    initialise(net, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for name, p in net.named_parameters():
        if p.ndim == 1:
            p.data.uniform_(0.5, 1.5, generator=generator)
        elif name == "score.weight":
            p.data.normal_(generator=generator)
    return net

"""muP's coordinate check: how far a few steps of AdamW move activations at several widths.

    python bench/mup_check.py                       prints a Markdown table; the last one is in mup_check.md

Under muP every column stays as large as the net gets wider; without it the steps of wide nets grow, and the
learning rate that suited the narrow net is too high for them (Yang et al. 2022, section D.1). Each figure is
the mean absolute change of an output since the start, relative to the narrowest net; the mean over 3 seeds.
"""

import torch

from llmkit.engine import optim
from llmkit.engine.recipe import Optim
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings

BASE, WIDTHS, HEAD = 64, (64, 128, 256, 512), 32
STEPS, ROWS, LENGTH, VOCABULARY, LR, SEEDS = 6, 4, 32, 256, 1e-2, 3
PLACES = ("embedding", "layer 1", "layer 2", "logits")


def moves(width: int, mup: bool, seed: int) -> list[float]:
    """Mean absolute change of the outputs at PLACES by STEPS steps on one batch of random tokens."""
    shape = {"layers": 2, "heads": width // HEAD, "head_dim": HEAD, "context": LENGTH, "tie": False}
    shape |= {"mlp_dim": 3 * width, "init_std": 0.1}  # 8/3 width would round differently at every width
    net = Decoder(Settings(width=width, vocab_size=VOCABULARY, mup_width=BASE if mup else None, **shape))
    initialise(net, seed)
    optimizer = optim.build(net, Optim(lr=LR, weight_decay=0.0))
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    before = outputs(net, tokens)
    for _ in range(STEPS):
        optimizer.zero_grad()
        net.nll(tokens[:, :-1], None, tokens[:, 1:]).mean().backward()
        optimizer.step()
    return [(b - a).abs().mean().item() for a, b in zip(before, outputs(net, tokens))]


@torch.no_grad()
def outputs(net: Decoder, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What stands at each of PLACES."""
    seen = []
    hooks = [net.embed_tokens.register_forward_hook(lambda m, a, out: seen.append(out))]
    hooks += [layer.register_forward_hook(lambda m, a, out: seen.append(out[0])) for layer in net.layers]
    seen.append(net.logits(net.hidden(tokens[:, :-1])))
    for hook in hooks:
        hook.remove()
    return seen


def main() -> None:
    print(f"AdamW, lr {LR}, {STEPS} steps, torch {torch.__version__}\n")
    print("| parametrisation | width | " + " | ".join(PLACES) + " |\n|---|---|" + "---|" * len(PLACES))
    for mup in (True, False):
        base = None
        for width in WIDTHS:
            runs = torch.tensor([moves(width, mup, seed) for seed in range(SEEDS)]).mean(0)
            base = runs if base is None else base
            row = " | ".join(f"{value:.2f}" for value in (runs / base).tolist())
            print(f"| {'muP' if mup else 'standard'} | {width} | {row} |", flush=True)


if __name__ == "__main__":
    main()

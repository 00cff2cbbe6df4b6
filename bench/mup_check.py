"""muP's coordinate check: how far a few steps of AdamW move activations at several widths.

    python bench/mup_check.py [FAMILY ...] [--svg FILE]     prints a table and draws it; 3 minutes of a core

The last ones are mup_check.md and mup_check.svg.

Under muP every column stays as large as the net gets wider; without it the steps of wide nets grow, and the
learning rate that suited the narrow net is too high for them (Yang et al. 2022, section D.1). Each figure is
the mean absolute change of an output since the start, relative to the narrowest net; the mean over 3 seeds.
"""

import argparse
import itertools
from pathlib import Path

import torch

from llmkit.engine import optim
from llmkit.engine.recipe import Optim
from llmkit.models import decoder, encdec, encoder
from llmkit.models.blocks import initialise

BASE, WIDTHS, HEAD = 64, (64, 128, 256, 512), 32
STEPS, ROWS, LENGTH, VOCABULARY, LR, SEEDS = 6, 4, 32, 256, 1e-2, 3
PLACES = ("embedding", "layer 1", "layer 2", "logits")


def build(family: str, width: int, mup: bool) -> torch.nn.Module:
    """An empty net: its MLP is a multiple of its width, where 8/3 would round differently at every width."""
    shape = {"width": width, "layers": 2, "heads": width // HEAD, "context": LENGTH, "mlp_dim": 3 * width}
    shape |= {"tie": False, "vocab_size": VOCABULARY, "mup_width": BASE if mup else None}
    if family == "decoder":
        return decoder.Decoder(decoder.Settings(init_std=0.1, head_dim=HEAD, **shape))
    if family in ("bert", "modernbert"):
        return encoder.Encoder(encoder.Settings(style=family, init_std=0.1, **shape))
    return encdec.EncDec(encdec.Settings(style=family, init_scale=5.0 if family == "bart" else 1.0, **shape))


def moves(family: str, width: int, mup: bool, seed: int) -> list[float]:
    """Mean absolute change of the outputs at PLACES by STEPS steps on one batch of random tokens."""
    net = initialise(build(family, width, mup), seed)
    optimizer = optim.build(net, Optim(lr=LR, weight_decay=0.0))
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    read, wanted = tokens[:, :-1], tokens[:, 1:]
    source = {"source": read.flip(1)} if hasattr(net, "encode") else {}
    before = outputs(net, read, source)
    for _ in range(STEPS):
        optimizer.zero_grad()
        net.nll(read, None, wanted, **source).mean().backward()
        optimizer.step()
    after = outputs(net, read, source)
    return [(b - a).abs().mean().item() for a, b in zip(before, after, strict=True)]


@torch.no_grad()
def outputs(net: torch.nn.Module, tokens: torch.Tensor, source: dict) -> list[torch.Tensor]:
    """What stands at each of PLACES; of a net with two sides, in its decoder."""
    seen: dict[str, torch.Tensor] = {}

    def keep(place: str):
        return lambda module, args, out: seen.update({place: out[0] if isinstance(out, tuple) else out})

    layers = net.decoder.layers if source else net.layers
    parts = dict(zip(PLACES, [net.embed_tokens, *layers], strict=False))
    hooks = [module.register_forward_hook(keep(place)) for place, module in parts.items()]
    seen["logits"] = net.logits(net.hidden(tokens, **source))
    for hook in hooks:
        hook.remove()
    return [seen[place] for place in PLACES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=["decoder", "bert", "modernbert", "t5", "bart"])
    parser.add_argument("--svg", type=Path, help="draw the picture into this file")
    given = parser.parse_args()
    print(f"AdamW, lr {LR}, {STEPS} steps, torch {torch.__version__}\n")
    print(f"| family | parametrisation | width | {' | '.join(PLACES)} |\n|---|---|---|{'---|' * len(PLACES)}")
    found = {}
    for family, mup in itertools.product(given.families, (True, False)):
        base, rows = None, []
        for width in WIDTHS:
            runs = torch.tensor([moves(family, width, mup, seed) for seed in range(SEEDS)]).mean(0)
            base = runs if base is None else base
            rows.append((runs / base).tolist())
            row = " | ".join(f"{value:.2f}" for value in rows[-1])
            print(f"| {family} | {'muP' if mup else 'standard'} | {width} | {row} |", flush=True)
        found[family, mup] = rows
    if given.svg:
        import mup_plot  # found beside this file, when that is what is run

        given.svg.write_text(mup_plot.chart(found, WIDTHS, PLACES), encoding="utf-8")


if __name__ == "__main__":
    main()

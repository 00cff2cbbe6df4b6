"""llmkit's vision objectives as problems for the comparison with plain torch (tests/parity)."""

import torch

from llmkit import dist, registry
from llmkit.engine.recipe import Optim
from llmkit.models import heads
from llmkit.objectives.phase import keyed
from tests.parity import cases, plain
from tests.parity.problems import Problem
from tests.vision.small import MODELS

SHAPE = {"size": 8, "channels": 1, "classes": 3}


def rows(step: int, draw: int, slot: int):
    """Images of every grey level; slot 1 of odd steps holds none that counts."""
    generator = keyed("vision", step, draw, slot)
    count = 3 + slot % 2
    return {
        "image": torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8),
        "label": torch.randint(3, (count,), generator=generator),
        "key": torch.randint(-(1 << 62), 1 << 62, (count,), generator=generator),
        "valid": torch.full((count,), not (slot == 1 and step % 2 == 1)),
    }


def problem(
    model: str, objective: str, ema: float = 0.0, clamp: float = 0.0, changes=(), **settings
) -> Problem:
    """A registered objective on a registered model of 8 x 8 images."""
    cls = registry.find("objective", objective)
    shape = {**MODELS[model], **SHAPE, **dict(changes)}
    known = registry.find("model", shape["name"]).Settings
    found = known.model_validate({key: value for key, value in shape.items() if key in known.model_fields})

    def make(head="lm"):
        with torch.device("meta"):
            return heads.build(found, head)

    optim = Optim(lr=1e-3, eps=1e-5, clip=0.0, ema=ema, clamp=clamp)
    return Problem(lambda: cls(cls.Settings(**settings)), lambda o: o.build(make), rows, "images", optim)


PROBLEMS = {
    "vae": problem("vae", "vae", binarise="dynamic", beta=2.0, anneal_steps=3),
    "iwae": problem(
        "vae", "vae", bound="iwae", particles=3, changes={"net": "mlp", "likelihood": "logistic"}
    ),
    "vq": problem("vq", "vq"),
    "vq2": problem("vq2", "vq"),
    "vq_average": problem("vq_average", "vq", decay=0.5, restart=4.0),
    "vq2_average": problem("vq2_average", "vq", decay=0.5),
    "pixel": problem("pixel", "pixel", ema=0.9, binarise="dynamic", changes={"net": "gated"}),
    "pixelcnnpp": problem("pixelcnnpp", "pixel", ema=0.9, binarise="dynamic"),
    "stylegan3": problem("stylegan3", "stylegan", ema=0.9, r1=0.1, r1_every=2, path_weight=0),
    "stylegan": problem("stylegan", "stylegan", ema=0.9, r1=0.1, r1_every=2, path_every=2, path_decay=0.5),
    "gan": problem("gan", "gan", ema=0.9),
    "class_norm": problem("class_norm", "gan", loss="hinge", ema=0.9),
    "wgan": problem("gan", "gan", loss="wasserstein", critic_updates=2, clamp=0.1),
    "wgan_gp": problem("gan", "gan", loss="wasserstein", gradient_penalty=10, critic_updates=5, ema=0.9),
    "lazy_r1": problem("gan", "gan", r1=1.0, r1_every=2),
    "ada": problem("gan", "gan", r1=1.0, r1_every=2, ada_target=0.1, ada_images=20, ada_every=1),
    "vaegan": problem("vaegan", "vaegan", ema=0.9, pixels=0.1),
    "r3gan": problem("gan", "gan", loss="relativistic", r1=0.1, r1_every=1, r2=0.1),
}


def matrix(world: int, backends: list[str]) -> dict:
    """Differences from plain torch by case: problem x backend x accumulation; and with a planted fault."""
    dist.start("cpu", 60, group=True)
    torch.set_num_threads(1)
    out = {}
    for name, each in PROBLEMS.items():
        for accumulation in (1, 2):
            expected = plain.train(each, cases.STEPS, list(range(world * accumulation)))
            for backend in backends:
                for planted in (False, True) if accumulation == 1 and backend == "ddp" else (False,):
                    key = f"{name}-{backend}-x{accumulation}" + ("-planted" if planted else "")
                    objective = cases.doubled(each) if planted else each.objective()
                    engine, sink = cases.train(each, backend, accumulation, objective=objective)
                    out[key] = cases.difference(engine, sink, expected)
                    engine.close()
    dist.stop()
    return out

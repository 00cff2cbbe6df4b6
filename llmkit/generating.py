"""`llmkit generate CKPT --prompt ...` or `--image ...`: text or images in, text out, from any checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmkit import dist
from llmkit.data import pictures
from llmkit.errors import ConfigError, DataError
from llmkit.eval import captioning
from llmkit.eval.replies import continuations, replies
from llmkit.log import warn
from llmkit.opened import Opened, open_model


def generate(
    ckpt: str,
    prompts: str | Sequence[str],
    *,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    chat: bool = False,
    beams: int = 1,
    device: str = "auto",
) -> list[str]:
    """What the language model in `ckpt` writes after each prompt: at most `max_tokens` tokens.

    `temperature` 0 is greedy; several `beams` search for the most likely text instead of drawing one. With
    `chat` a prompt is a user's message, put through the chat template. An encoder-decoder reads a prompt as
    its source. A prompt that does not fit into the context with its reply loses its beginning.
    """
    opened = open_model(ckpt, head="lm|seq2seq", device=dist.start(device))
    max_tokens = checked(opened, max_tokens, temperature, top_p)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    options = _options(temperature, top_p, seed, beams)
    if chat:
        asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return replies(opened, asked, max_tokens, **options)
    return continuations(opened, prompts, max_tokens, **options)


def captions(
    ckpt: str,
    images: Sequence[str | Path],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    beams: int = 1,
    device: str = "auto",
) -> list[str]:
    """What the captioner in `ckpt` writes of each image file: at most as many tokens as it was built for.

    Images are brought to its size as those were that it was trained on. DataError for a file that is not
    there, or no image.
    """
    opened = open_model(ckpt, head="caption", device=dist.start(device))
    s = opened.net.settings
    max_tokens = checked(opened, min(max_tokens, s.context - 1), temperature, top_p)
    fit = pictures.fitting(s.size, s.channels, s.fit or "crop")
    found = np.concatenate([_image(Path(file).expanduser(), fit) for file in images])
    return captioning.written(
        opened,
        torch.from_numpy(found).permute(0, 3, 1, 2),
        max_tokens,
        **_options(temperature, top_p, seed, beams),
    )


def _image(path: Path, fit) -> np.ndarray:
    """(1, Y, X, C) uint8"""
    if not path.is_file():
        raise DataError(f"--image: {path} is no file; give an image")
    return pictures.gathered([(path, path)], fit, str(path))[0]


def _options(temperature: float, top_p: float, seed: int, beams: int) -> dict[str, Any]:
    """Of `beam.search`, or of `generate.stream`. ConfigError for no beam at all."""
    if beams < 1:
        raise ConfigError(f"--beams: {beams} has to be at least 1")
    return {"temperature": temperature, "top_p": top_p, "seed": seed} if beams == 1 else {"beams": beams}


def checked(opened: Opened, max_tokens: int, temperature: float, top_p: float) -> int:
    """How many tokens to write: `max_tokens`, or half of a context too short for that, with a warning.

    ConfigError if the model cannot write text, or the options are not what they should be.
    """
    if opened.tokenizer is None:
        raise ConfigError(f"{opened.path}: has no tokenizer to read a prompt with; add tokenizer files to it")
    if max_tokens < 1:
        raise ConfigError(f"--max-tokens: {max_tokens} has to be at least 1")
    if temperature < 0:
        raise ConfigError(f"--temperature: {temperature} is below 0; 0 is greedy, 1 the model's distribution")
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p: {top_p} has to be above 0 and at most 1")
    context = opened.net.settings.context
    if max_tokens >= context:
        warn(f"--max-tokens: {max_tokens} leave no room in a context of {context}; {context // 2} are used")
        return context // 2
    return max_tokens

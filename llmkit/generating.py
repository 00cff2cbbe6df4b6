"""`llmkit generate CKPT --prompt ...`: text in, text out, from any checkpoint."""

from collections.abc import Sequence

from llmkit import dist
from llmkit.errors import ConfigError
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
    if beams < 1:
        raise ConfigError(f"--beams: {beams} has to be at least 1")
    options = {"temperature": temperature, "top_p": top_p, "seed": seed} if beams == 1 else {"beams": beams}
    if chat:
        asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return replies(opened, asked, max_tokens, **options)
    return continuations(opened, prompts, max_tokens, **options)


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

"""Special pieces by what they are for: families of tokenizers spell the same thing differently."""

from llmkit.errors import ConfigError
from llmkit.tokenizer.vocabulary import Tokenizer

MASK = ("[MASK]", "<mask>", "<|mask|>")
FIM_PREFIX = ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>")
FIM_SUFFIX = ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<SUF>")
FIM_MIDDLE = ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<MID>")


def find(tokenizer: Tokenizer, spellings: tuple[str, ...], where: str) -> int:
    """The id of the piece that is spelt so. ConfigError, which begins with `where`, if none has."""
    for spelling in spellings:
        if spelling in tokenizer.specials:
            return tokenizer.specials[spelling]
    raise ConfigError(
        f"{where}: the tokenizer {tokenizer.folder} has no piece {spellings[0]}; "
        "train one whose spec has it, and shard again"
    )


def sentinels(tokenizer: Tokenizer, needed: int, where: str) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ... (Raffel et al. 2020). ConfigError if there are fewer."""
    found = []
    while (piece := f"<extra_id_{len(found)}>") in tokenizer.specials:
        found.append(tokenizer.specials[piece])
    if len(found) < needed:
        raise ConfigError(
            f"{where}: {needed} pieces <extra_id_N> are needed for rows of this length, the tokenizer "
            f"{tokenizer.folder} has {len(found)}; train one whose spec has them, or lower data.seq_len"
        )
    return found


def marker(tokenizer: Tokenizer, which: str, where: str) -> int:
    """The id of the tokenizer's "bos", "eos" or "pad". ConfigError if it has none."""
    found = getattr(tokenizer, which)
    if found is None or found < 0:
        raise ConfigError(f"{where}: the tokenizer {tokenizer.folder} has no {which}; use another")
    return found

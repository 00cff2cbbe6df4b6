"""Byte-level BPE (Radford et al. 2019) through `tokenizers`: merges of bytes inside words, nothing unknown.

    text -> words (a regular expression) -> bytes, each as one printable character -> merges

A directory of this kind has no tokenizer.model: SentencePiece has no such model. Control tokens stand first.
"""

from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer.layout import LAYOUTS
from llmkit.tokenizer.lines import Lines

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,DIGITS}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The words of GPT-4 and Llama 3, with the vowel signs and accents (\\p{M}) of a word kept inside it."""
PATTERNS = tuple(WORDS.replace("DIGITS", digits) for digits in ("1", "3"))


def train(settings, lines: Lines, control: list[str]):
    """A `tokenizers.Tokenizer` of a TokenizerSpec. ConfigError if the text cannot give so many pieces."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = Regex(PATTERNS[0 if settings.split_digits else 1])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [*LAYOUTS[settings.layout].pieces.values(), *control]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[AddedToken(text, normalized=False, special=True) for text in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines.blocks(), trainer)
    made = tokenizer.get_vocab_size()
    if not lines.bytes:
        raise DataError(f"{lines.path}: no text to train on; see rejected.jsonl beside it")
    if made < settings.vocab_size and not settings.at_most:
        raise ConfigError(
            f"vocab_size: {settings.vocab_size} pieces are more than {lines.bytes} bytes of text can give; "
            f"set it to at most {made}, or at_most=true"
        )
    if made > settings.vocab_size:
        raise ConfigError(
            f"vocab_size: {settings.vocab_size} pieces do not hold 256 bytes and {len(special)} control "
            f"tokens; set it to at least {made}"
        )
    return tokenizer

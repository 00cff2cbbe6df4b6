"""The same tokenizer for Hugging Face: tokenizer.json built piece by piece, and a config that keeps it.

`LlamaTokenizer` of transformers 5 replaces what tokenizer.json says about spaces by a rule of its own;
the class written here, PreTrainedTokenizerFast, keeps the file as it is, in versions 4 and 5 alike. What
users type can still become a control token there, unless they pass `split_special_tokens=True`: that is
how chat templates work in transformers. `llmkit` itself never does it (tokenizer/chat.py).
"""

import json
import shutil
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit.errors import DataError
from llmkit.tokenizer import layout, parts
from llmkit.tokenizer.vocabulary import SPACE

KIND = protobuf.ModelProto.SentencePiece.Type
FLOOR = -1e5
"""Score of what text must never match: lower than that of any part spelt in single characters."""
FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "spec.yaml",
    "tokenizer_card.md",
)  # fmt: skip


def write(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json beside `folder`'s tokenizer.model."""
    model = protobuf.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    converted(model).save(str(folder / "tokenizer.json"))
    shape = layout.of(model.trainer_spec)
    _write_config(folder, shape, [p.piece for p in model.pieces if p.type == KIND.CONTROL])


def write_merges(folder: Path, tokenizer, shape: layout.Layout, control: list[str]) -> None:
    """Write a `tokenizers.Tokenizer` that has no tokenizer.model as `write` does, framed as `shape` says."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(**_frame(shape))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder, shape, control)


def copy(folder: str | Path, out: str | Path) -> None:
    """Copy a tokenizer's files into `out`, tokenizer.model among them: other converters look for it."""
    folder, out = Path(folder), Path(out)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{folder}: no tokenizer.json here; train the tokenizer, or export it with tokenizer export"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def frame(folder: Path) -> tuple[list[int], list[int]]:
    """The ids that the export puts before and after a text."""
    if (folder / "tokenizer.model").is_file():
        model = protobuf.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
        shape = layout.of(model.trainer_spec)
        return [shape.ids[role] for role in shape.before], [shape.ids[role] for role in shape.after]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain, framed = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    start = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
    return framed[:start], framed[start + len(plain) :]


def converted(model: protobuf.ModelProto):
    """A `tokenizers.Tokenizer` that gives the ids which SentencePiece gives with `model`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

    unigram = model.trainer_spec.model_type == protobuf.TrainerSpec.UNIGRAM
    tokenizer = Tokenizer(_unigram(model) if unigram else _bpe(model))
    if unigram:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(parts.BOUNDED_ESCAPED), "isolated")
    steps = [decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer_spec.escape_whitespaces:
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        steps.insert(0, decoders.Replace(SPACE, " "))
    tokenizer.decoder = decoders.Sequence(steps)
    special = [p.piece for p in model.pieces if p.type in (KIND.CONTROL, KIND.UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    plain = [p.piece for p in model.pieces if p.type == KIND.USER_DEFINED]
    tokenizer.add_tokens([AddedToken(text, normalized=SPACE in text, special=False) for text in plain])
    tokenizer.post_processor = processors.TemplateProcessing(**_frame(layout.of(model.trainer_spec)))
    return tokenizer


def _frame(shape: layout.Layout) -> dict:
    """What TemplateProcessing takes. Of a pair, BERT frames the second text by its end alone."""
    before = [shape.pieces[role] for role in shape.before]
    after = [shape.pieces[role] for role in shape.after]
    again = [] if after else before
    second = [f"{piece}:1" for piece in again] + ["$B:1"] + [f"{piece}:1" for piece in after]
    return {
        "single": [*before, "$A", *after],
        "pair": [*before, "$A", *after, *second],
        "special_tokens": [(shape.pieces[role], shape.ids[role]) for role in (*shape.before, *shape.after)],
    }


def _bpe(model: protobuf.ModelProto):
    """Merges in the order of the pieces they make; of each piece, every split into two known pieces."""
    from tokenizers import models

    ids = {piece.piece: i for i, piece in enumerate(model.pieces)}
    mergeable = {p.piece: None for p in model.pieces if p.type == KIND.NORMAL}
    merges = []
    for piece in mergeable:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        splits = [(a, b) for a, b in splits if a in mergeable and b in mergeable]
        merges += sorted(splits, key=lambda split: (ids[split[0]], ids[split[1]]))
    spec = model.trainer_spec
    return models.BPE(
        vocab=ids, merges=merges, unk_token=spec.unk_piece, fuse_unk=True, byte_fallback=spec.byte_fallback
    )


def _unigram(model: protobuf.ModelProto):
    """The pieces with their scores; those that text must never match, with one that loses to any other path.

    `tokenizers` looks for every piece in the text, control tokens too. Each of their characters has a piece
    of its own (sentencepieces.py asks for that), so spelling them out always costs less than FLOOR. An
    unknown character costs more than FLOOR, and has to: no path goes around it.
    """
    from tokenizers import models

    pieces = [(p.piece, p.score if p.type == KIND.NORMAL else FLOOR) for p in model.pieces]
    spec = model.trainer_spec
    return models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)


def _write_config(folder: Path, shape: layout.Layout, control: list[str]) -> None:
    """tokenizer_config.json, with all that transformers 4 or 5 would otherwise guess."""
    named = {f"{role}_token": shape.pieces[role] for role in ("bos", "eos", "pad", "unk")}
    if shape == layout.LAYOUTS["bert"]:
        named |= {"cls_token": shape.pieces["bos"], "sep_token": shape.pieces["eos"]}
        if "[MASK]" in control:
            named["mask_token"] = "[MASK]"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        # 4 fails on the newer name of 5
        "additional_special_tokens": [text for text in control if text not in named.values()],
        "add_bos_token": "bos" in shape.before,
        "add_eos_token": "eos" in shape.after,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 10**30,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

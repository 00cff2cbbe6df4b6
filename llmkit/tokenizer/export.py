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
from llmkit.tokenizer import layout
from llmkit.tokenizer.vocabulary import SPACE

KIND = protobuf.ModelProto.SentencePiece.Type
FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "spec.yaml")


def write(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json beside `folder`'s tokenizer.model."""
    model = protobuf.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    converted(model).save(str(folder / "tokenizer.json"))
    text = json.dumps(_config(model), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


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
    model = protobuf.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    shape = layout.of(model.trainer_spec)
    return [shape.ids[role] for role in shape.before], [shape.ids[role] for role in shape.after]


def converted(model: protobuf.ModelProto):
    """A `tokenizers.Tokenizer` that gives the ids which SentencePiece gives with `model`."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors

    tokenizer = Tokenizer(_bpe(model))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
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


def _config(model: protobuf.ModelProto) -> dict:
    """tokenizer_config.json, with all that transformers 4 or 5 would otherwise guess."""
    spec = model.trainer_spec
    named = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "pad_token": spec.pad_piece}
    named["unk_token"] = spec.unk_piece
    shape = layout.of(spec)
    if shape == layout.LAYOUTS["bert"]:
        named |= {"cls_token": spec.bos_piece, "sep_token": spec.eos_piece}
        if any(p.piece == "[MASK]" for p in model.pieces):
            named["mask_token"] = "[MASK]"
    others = [p.piece for p in model.pieces if p.type == KIND.CONTROL and p.piece not in named.values()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": others,  # 4 fails on the newer name of 5
        "add_bos_token": "bos" in shape.before,
        "add_eos_token": "eos" in shape.after,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 10**30,
    }

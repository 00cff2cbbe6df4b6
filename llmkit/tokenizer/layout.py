"""Where the special pieces of a vocabulary stand, how they are spelt, and what frames a text in transformers.

    llama   <unk> <s> </s> <pad>          <s> text
    t5      <pad> </s> <unk> <s>          text </s>             Raffel et al. 2020: pad, eos, unk = 0, 1, 2
    bert    [PAD] [UNK] [CLS] [SEP]       [CLS] text [SEP]      Devlin et al. 2019; the spec adds [MASK]

T5's own vocabulary has no `<s>`. Ours has, since every document in a shard begins with one; no text is framed
with it.
"""

from dataclasses import dataclass

ROLES = ("unk", "bos", "eos", "pad")


@dataclass(frozen=True)
class Layout:
    """`pieces`: {role: spelling} in the order of their ids, from 0. `before`, `after`: roles around text."""

    pieces: dict[str, str]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def ids(self) -> dict[str, int]:
        """{role: id}."""
        return {role: i for i, role in enumerate(self.pieces)}


LAYOUTS = {
    "llama": Layout({"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}, ("bos",), ()),
    "t5": Layout({"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "bos": "<s>"}, (), ("eos",)),
    "bert": Layout({"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]"}, ("bos",), ("eos",)),
}


def of(trainer_spec) -> Layout:
    """The layout that a SentencePiece model was trained with; llama's frame for one that is none of them."""
    pieces = {role: getattr(trainer_spec, f"{role}_piece") for role in ROLES}
    ids = {role: getattr(trainer_spec, f"{role}_id") for role in ROLES}
    for layout in LAYOUTS.values():
        if layout.pieces == pieces and layout.ids == ids:
            return layout
    return Layout(pieces, ("bos",), ())

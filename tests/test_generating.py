"""`llmkit generate` on checkpoints of several families."""

import pytest

from llmkit import generating
from llmkit.errors import CheckpointError
from llmkit.models import encdec, encoder
from llmkit.models.hf import importing
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.nets import wild


@pytest.mark.parametrize("style", ["t5", "bart"])
def test_an_encoder_decoder_writes_what_its_source_makes_it_write(tmp_path, tokenizer_dir, style):
    size = Tokenizer.load(tokenizer_dir).vocab_size
    shape = {"width": 48, "layers": 1, "heads": 4, "vocab_size": size, "init_scale": 2.0}
    importing.save(
        wild(encdec.EncDec(encdec.Settings(style=style, **shape))), tmp_path / "run", tokenizer_dir, {}
    )
    asked = {"max_tokens": 12, "temperature": 1.0, "seed": 3, "device": "cpu"}
    one, same, other = generating.generate(
        str(tmp_path / "run"), ["the state of", "the state of", "a union"], **asked
    )
    again = generating.generate(str(tmp_path / "run"), "the state of", **asked)
    assert again == [one]
    assert len({one, same, other}) > 1


def test_an_encoder_is_told_apart_from_what_writes(tmp_path, tokenizer_dir):
    size = Tokenizer.load(tokenizer_dir).vocab_size
    net = wild(encoder.Encoder(encoder.Settings(width=48, layers=1, vocab_size=size)))
    importing.save(net, tmp_path / "run", tokenizer_dir, {})
    with pytest.raises(CheckpointError, match="is a masked language model, a language model is needed"):
        generating.generate(str(tmp_path / "run"), "a", device="cpu")

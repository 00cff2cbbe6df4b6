"""Our encoder-decoder of style "transformer" as Hugging Face's MarianMTModel, both ways.

Marian is the original Transformer: sinusoidal positions (which are computed, not stored), norms behind the
sublayers, embeddings times sqrt(D) and shared. Its names are BART's.
"""

from collections.abc import Iterator

from torch import Tensor

from llmkit.models.hf.bart import Bart
from llmkit.registry import register


@register("export", "marian")
class Marian(Bart):
    """What export and import know about the original Transformer."""

    model_type = "marian"
    style = "transformer"
    activation = "relu"
    scales_embedding = True
    architectures = {"seq2seq": "MarianMTModel"}

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; stored sinusoids are not read."""
        if not name.endswith("embed_positions.weight"):
            yield from Bart.take(name, tensor)

    @classmethod
    def config(cls, settings, head, ids, dtype) -> dict:
        """The content of config.json; `ids` holds bos, eos, pad and decoder_start_token_id."""
        shared = {"share_encoder_decoder_embeddings": True, "decoder_vocab_size": settings.vocab_size}
        return super().config(settings, head, ids, dtype) | shared

"""Any language model of transformers behind our interface: to evaluate it and to generate with it.

    hidden(tokens, segments) ─► its body, with a mask by document and positions that restart
    logits(hidden)           ─► its output embeddings
    opening                  ─► a probe: both together are what the whole model computes, or it is refused

Causal models that do more between body and logits (soft caps, scaled logits) or cannot be packed fail the
probe. Masked and two-sided ones are taken apart in documents.py.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit import trust
from llmkit.config import Section
from llmkit.errors import CheckpointError, ConfigError
from llmkit.models import heads, masks
from llmkit.models.blocks import positions
from llmkit.models.crossentropy import IGNORED
from llmkit.models.hf import weights
from llmkit.models.hf.documents import Masked, TwoSided
from llmkit.models.hf.t5 import start_of

PROBE_DIFF = 1e-4
"""Largest difference of logits in the probe, relative to the largest logit."""
CONFIG_BYTES = 1 << 20


class Settings(Section):
    """What llmkit needs to know of a foreign net."""

    name: Literal["hub"] = "hub"
    architecture: str
    vocab_size: int
    width: int
    context: int
    style: str
    start: str | None = None
    """Of an encoder-decoder: the piece that its decoder reads first."""


class HubNet(nn.Module):
    """A transformers model with `hidden`, `logits` and `nll`, as objectives and metrics expect them."""

    def __init__(self, model: Any, settings: Settings):
        super().__init__()
        self.model, self.settings = model, settings

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, D); documents of a packed row do not see each other."""
        if segments is None:
            segments = torch.ones_like(tokens)
        dtype = next(self.parameters()).dtype
        B, T = tokens.shape
        allowed = masks.dense(masks.within(segments, T, causal=True), B, T, T, tokens.device)
        mask = torch.zeros((), dtype=dtype, device=tokens.device)
        mask = mask.masked_fill(~allowed, torch.finfo(dtype).min)
        out = self.model.base_model(
            input_ids=tokens, attention_mask=mask, position_ids=positions(segments), use_cache=False
        )
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)"""
        return self.model.get_output_embeddings()(hidden)

    def nll(self, tokens: Tensor, segments: Tensor | None, labels: Tensor) -> Tensor:
        """Negative log-likelihood of `labels` (already shifted): (B, T) fp32, 0 where the label is -100."""
        logits = self.logits(self.hidden(tokens, segments)).float()
        flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
        return flat.view(labels.shape)


def described(model: Any) -> Settings:
    """What llmkit needs to know of a model of transformers."""
    text = model.config if model.config.is_encoder_decoder else model.config.get_text_config()
    sizes = [getattr(text, key, None) for key in ("max_position_embeddings", "n_positions")]
    return Settings(
        architecture=type(model).__name__,
        vocab_size=text.vocab_size,
        width=text.hidden_size,
        context=next((size for size in sizes if size), 2048),
        style=model.config.model_type,
        start=start_of(model.config.to_dict()) or "bos" if model.config.is_encoder_decoder else None,
    )


def read(folder: Path) -> HubNet | Masked:
    """The net in a Hugging Face directory, computed by transformers, in fp32 and evaluation mode.

    TrustError for what could run code, CheckpointError for tensors that do not fit, ConfigError for what is
    no language model or does not pass the probe.
    """
    import transformers

    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder}: is an adapter, whose base model lies elsewhere; merge it first")
    config = read_config(folder / "config.json")
    if config.is_encoder_decoder:
        wrapper, auto = TwoSided, "AutoModelForSeq2SeqLM"
    elif any(name.endswith("ForMaskedLM") for name in config.architectures or ()):
        wrapper, auto = Masked, "AutoModelForMaskedLM"
    else:
        wrapper, auto = HubNet, "AutoModelForCausalLM"
    for file in weights.files(folder):
        trust.tensor_header(file)
    try:
        model, info = getattr(transformers, auto).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",  # the one that every architecture has
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{folder}: transformers cannot load it: {str(error).splitlines()[0]}"
        ) from None
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            names = ", ".join(sorted(map(str, info[kind]))[:5])
            raise CheckpointError(
                f"{folder}: {kind.replace('_', ' ')}: {names}; the weights are not this model's"
            )
    net = wrapper(model.eval(), described(model))
    probe(net, folder)
    return net


def read_config(path: Path) -> Any:
    """The transformers config of a foreign config.json, from its plain values: no paths, no private keys."""
    from transformers import AutoConfig

    tree = trust.read_json(path, CONFIG_BYTES)
    trust.plain_config(path, {"model_type": str})  # TrustError for keys that make a loader run code
    plain = _plain(tree) if isinstance(tree, dict) else {}
    try:
        return AutoConfig.for_model(plain.pop("model_type", None), **plain)
    except Exception as error:  # every config class validates in its own way
        raise ConfigError(f"{path}: transformers cannot read it: {str(error).splitlines()[0]}") from None


def _plain(value: Any) -> Any:
    """`value` without private keys and without strings that could name a file, a repository or a module."""
    if isinstance(value, dict):
        cleaned = {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
        return {key: item for key, item in cleaned.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, str) and not value.replace("-", "_").isidentifier() else value


@torch.no_grad()
def probe(net: HubNet | Masked, folder: Path) -> None:
    """ConfigError if `hidden` and `logits` of a row of two documents are not what the model computes."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(net.settings.vocab_size, (1, 16), generator=generator)
    segments = torch.tensor([[1] * 7 + [2] * 9])
    two_sided = heads.kind(net) == "seq2seq"
    source = {"source": tokens, "source_segments": segments} if two_sided else {}
    try:
        packed = net.logits(net.hidden(tokens, segments, **source))
        parts = [{"input_ids": part} for part in (tokens[:, :7], tokens[:, 7:])]
        parts = [part | {"decoder_input_ids": part["input_ids"]} for part in parts] if two_sided else parts
        whole = torch.cat([net.model(**part).logits for part in parts], 1)
    except (TypeError, ValueError, RuntimeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{folder}: {net.settings.architecture} cannot be packed: {error}") from None
    difference = ((packed - whole).abs().max() / whole.abs().max()).item()
    if not difference <= PROBE_DIFF:
        raise ConfigError(
            f"{folder}: {net.settings.architecture} does more than body, documents and output matrix "
            f"(logits differ by {difference:.1e} of the largest); llmkit cannot take it apart"
        )

"""Heads other than the language model's: a number per position (a reward, a value), or labels.

score, value   one number at every position                      reward models, PPO's critic
classify       one of L labels, or several, for a whole text     spam, a pair of texts
tag            one of L labels for a token                       entities, parts of speech
span           where an answer begins and where it ends          extractive question answering
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit import registry
from llmkit.errors import ConfigError
from llmkit.models.blocks import fill_normal, positions

LABELLED = ("classify", "tag", "span")
"""Heads of a LabelNet."""
HEADS = ("lm", "score", "value", "lm_value", *LABELLED)
"""What a net can end in. "score" and "value" are the same network; the names say what it is trained for.

"lm_value" is the text net itself with one row more, `value_head.weight` (1, D), for PPO with a shared trunk.
"""


class ScoreNet(nn.Module):
    """A text net whose output matrix is replaced by one row.

    Parameters are `trunk.<name in the text net>` and `score.weight` (1, D), the latter drawn from
    N(0, 1 / (D + 1)) as by Stiennon et al. (2020): from a row of 0 the trunk gets no gradient until the row
    has grown, which costs the quickstart's reward model half of its minute.
    """

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk
        self.settings = trunk.settings
        self.trunk.lm_head = None
        self.score = nn.Linear(trunk.settings.width, 1, bias=False)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: the trunk's as the trunk does, whatever run it is in; the head's as above."""
        if name.startswith("trunk."):
            self.trunk.init_param(name.removeprefix("trunk."), p, generator)
        else:
            fill_normal(p, (self.settings.width + 1) ** -0.5, generator)

    def lr_scale(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by: the trunk's answer, 1 for the head."""
        ask = getattr(self.trunk, "lr_scale", None)
        return ask(name.removeprefix("trunk.")) if ask and name.startswith("trunk.") else 1.0

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's."""
        return self.trunk.hidden(tokens, segments)

    def scores(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """The score of the text up to each position: (B, T) fp32."""
        hidden = self.hidden(tokens, segments).float()
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 the scores of two replies often tie
            return F.linear(hidden, self.score.weight.float())[..., 0]

    def compile(self, mode: str | None = "default", parts: bool = True) -> None:
        """Compile the trunk's part of training."""
        self.trunk.compile(mode, parts)


class LabelNet(nn.Module):
    """A text net that ends in labels: for a whole text, for every token, or for the ends of an answer.

              classify                                        tag, span
    bert      first token, `pooler` dense, tanh               every token
    modernbert  first token, the masked head's dense, norm    every token, the same
    decoder   last token                                      every token, which sees what stands before it

    Parameters are `trunk.<name in the text net>`, `pooler.*` of a BERT that classifies, and `<head>_head.*`;
    they export to transformers' ForSequenceClassification, ForTokenClassification, ForQuestionAnswering.

    An encoder's reward model is one too, with the head "score": a text has one number, at all its positions.
    """

    def __init__(self, trunk: nn.Module, head: str, outputs: int):
        """`outputs`: how many labels; of a span always 2. ConfigError for a net that cannot have the head."""
        super().__init__()
        self.encodes = getattr(trunk, "predicts", "lm") == "masked"
        if hasattr(trunk, "encode"):
            raise ConfigError(
                "objective: an encoder-decoder does not end in labels; take an encoder or a decoder, or "
                "objective.name=seq2seq with the label as the target"
            )
        if head == "span" and not self.encodes:
            raise ConfigError(
                "objective: a decoder does not see what follows an answer; take an encoder to find spans"
            )
        self.trunk, self.head, self.settings = trunk, head, trunk.settings
        self.labels = [f"LABEL_{i}" for i in range(outputs)]
        """The names of the outputs, in order; whoever knows better says so."""
        self.several = False
        """classify: a text may have any number of labels."""
        width, bert = self.settings.width, self.encodes and self.settings.style == "bert"
        self.pooler = nn.Linear(width, width) if bert and head in ("classify", "score") else None
        if self.encodes and not bert:  # ModernBERT's dense and norm stay, the output matrix goes
            trunk.lm_head.weight = trunk.lm_head.bias = None
        else:
            trunk.lm_head = None
        bias = self.encodes or head == "tag"
        setattr(self, f"{head}_head", nn.Linear(width, outputs, bias=bias))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: the trunk's as the trunk does, new matrices from N(0, init_std), biases 0."""
        if name.startswith("trunk."):
            self.trunk.init_param(name.removeprefix("trunk."), p, generator)
        elif p.ndim == 1:
            nn.init.zeros_(p)
        else:
            fill_normal(p, self.settings.init_std, generator)

    lr_scale = ScoreNet.lr_scale

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's."""
        return self.trunk.hidden(tokens, segments)

    def label_logits(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        starts: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """fp32 logits of the labels: of every token (B, T, L), or of whole texts (B, P, L).

        A text that is classified has its first token at `starts` (B, P) and its last one at `ends`; None:
        each row is one text that fills it.
        """
        x = self.hidden(tokens, segments)
        return self._end(self._pooled(x, starts, ends) if self.head == "classify" else x)

    def scores(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """The score of the text that stands at each position, read at its first token: (B, T) fp32."""
        segments = torch.ones_like(tokens) if segments is None else segments
        x = self.hidden(tokens, segments)
        each = self._end(x if self.pooler is None else self.pooler(x).tanh())[..., 0]
        here = torch.arange(tokens.shape[1], device=tokens.device)
        return each.gather(1, here - positions(segments))

    def _end(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., L) fp32."""
        if self.trunk.lm_head is not None:
            x = self.trunk.lm_head(x)
        x = F.dropout(x, self.settings.dropout, self.training).float()
        end = getattr(self, f"{self.head}_head")
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, end.weight.float(), None if end.bias is None else end.bias.float())

    def _pooled(self, x: Tensor, starts: Tensor | None, ends: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, P, D): what stands for each text."""
        if starts is None:
            starts = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
            ends = starts + x.shape[1] - 1
        at = starts if self.encodes else ends
        x = x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
        return x if self.pooler is None else self.pooler(x).tanh()

    def compile(self, mode: str | None = "default", parts: bool = True) -> None:
        """Compile the trunk's part of training."""
        self.trunk.compile(mode, parts)


def label_head(names) -> str | None:
    """Which head a LabelNet with parameters of these names has; None if they are of another net."""
    return next((head for head in (*LABELLED, "score") if f"{head}_head.weight" in names), None)


def trunk_of(net: nn.Module) -> nn.Module:
    """The text net itself, without the head that it may be inside of."""
    return net.trunk if isinstance(net, (ScoreNet, LabelNet)) else net


def kind(net: nn.Module) -> str:
    """What a net ends in: "lm" for a language model, "masked" for an encoder with its head, "seq2seq" for an
    encoder-decoder, "score" for a reward or value model, "classify", "tag" or "span" for one that ends in
    labels, "caption" for one that says what an image shows, "image" for a maker of images, "features" for a
    recogniser, else "none".
    """
    if isinstance(net, LabelNet):
        return net.head
    if hasattr(net, "logits"):
        return getattr(net, "predicts", "lm")
    methods = {"scores": "score", "sample": "image", "features": "features"}
    return next((head for method, head in methods.items() if hasattr(net, method)), "none")


def build(settings, head: str = "lm", outputs: int | None = None) -> nn.Module:
    """The net that `settings` describe, ending in `head` of `outputs` labels; of a model of several, the one
    called so.
    """
    Model = registry.find("model", settings.name)
    if several := parts(settings):
        return several[head](settings)
    return with_head(Model(settings), head, outputs)


def parts(settings) -> dict[str, type]:
    """The nets of a model (a generator and a discriminator), the one that makes things first."""
    return getattr(registry.find("model", settings.name), "parts", {})


def with_head(net: nn.Module, head: str, outputs: int | None = None) -> nn.Module:
    """`net` as it is for "lm", inside a ScoreNet for "score" and "value", inside a LabelNet for labels and
    for an encoder's score."""
    if head in LABELLED:
        return LabelNet(net, head, outputs)
    if head == "score" and getattr(net, "predicts", "lm") == "masked":
        return LabelNet(net, "score", 1)
    if head == "lm_value":
        net.value_head = nn.Linear(net.settings.width, 1, bias=False)
    return net if head in ("lm", "lm_value") else ScoreNet(net)

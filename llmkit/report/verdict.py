"""What the measured figures say a model can and cannot do, in sentences. No figure, no sentence."""

from typing import Any

from llmkit.report.markup import percent, span

NAMES = {
    "xz": "xz -9e",
    "bz2": "bz2 -9",
    "unigram": "unigram model",
    "kn2": "Kneser-Ney bigram",
    "kn3": "Kneser-Ney trigram",
    "kn4": "Kneser-Ney 4-gram",
    "hmm": "hidden Markov model",
}
"""What the baselines are called."""


def sentences(report: dict[str, Any], parameters: int | None, tokens: int | None) -> list[str]:
    """From `summary.summary`, the `parameters` of the net and the `tokens` it was pretrained on, if known."""
    known = (("pretrain", _text), ("sft", _answers), ("reward", _reward), ("preference", _preference))
    lines = [line for part, say in known for line in say(report.get(part, {}))]
    return [*_size(parameters, tokens), *lines]


def _size(parameters: int | None, tokens: int | None) -> list[str]:
    if not parameters or not tokens:
        return []
    return [
        f"It has {parameters / 1e6:.1f} million parameters and was pretrained on {tokens / 1e6:.1f} million "
        "tokens, thousands of times less than assistants in daily use. It has learned the sound of its "
        "sources, not the world: expect fluent phrases and wrong facts."
    ]


def _text(part: dict[str, Any]) -> list[str]:
    if "baseline" not in part:
        return []
    wins, losses = ([_spoken(name) for name in part[key]] for key in ("beats", "loses_to"))
    line = f"It needs {part['bits_per_byte']:.3f} bits for a byte of text that it has never seen. "
    if wins:
        line += f"That is less than {_list(wins)} {'need' if len(wins) > 1 else 'needs'}"
        line += f", but more than {_list(losses)}" if losses else ": every baseline is beaten"
    else:
        line += f"That is more than every baseline: {_list(losses)}"
    return [line + ". All of them had seen the same training text."]


def _spoken(name: str) -> str:
    """A baseline in a sentence: compressors by their command, models with an article."""
    return NAMES.get(name, name) if name in ("xz", "bz2") else f"a {NAMES.get(name, name)}"


def _answers(part: dict[str, Any]) -> list[str]:
    if "exact_match" not in part:
        return []
    line = f"It answers {percent(part['exact_match'])} of unseen short questions exactly"
    if "exact_match_before" in part:
        line += f"; before instruction tuning it was {percent(part['exact_match_before'])}"
    if part["exact_match"] < 0.9:
        line += f". The other {percent(1 - part['exact_match'])} are wrong, in the same confident tone"
    return [line + "."]


def _reward(part: dict[str, Any]) -> list[str]:
    if "accuracy" not in part:
        return []
    low, high = part["above_longer_wins_ci95"]
    share = percent(part["accuracy"])
    than = "clearly above" if low > 0 else "clearly below" if high < 0 else "not clearly different from"
    line = f"The reward model prefers the right reply in {share} of {part['pairs']} unseen pairs, {than} the "
    line += f"rule that the longer one wins ({percent(part['longer_wins'])})"
    every = part.get("by_source", {})
    sources = {name: s for name, s in every.items() if "/" not in name or name.partition("/")[0] not in every}
    learned = [name for name, source in sources.items() if source["ci95"][0] > 0.5]
    failed = [name for name in sources if name not in learned]
    if learned and failed:
        line += f". It learned {_list(learned)}; on {_list(failed)} it does no better than tossing a coin"
    elif failed:
        line += ". On no source does it do better than tossing a coin"
    return [line + "."]


def _preference(part: dict[str, Any]) -> list[str]:
    if "accuracy_after" not in part:
        return []
    low, high = part["ci95"]
    change = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
    line = (
        f"Preference tuning {change} the share of pairs in which the preferred reply is the likelier one: "
        f"{percent(part['accuracy_before'])} to {percent(part['accuracy_after'])} "
        f"(difference {span(part['ci95'], signed=True)})"
    )
    return [line + f", {part['kl']:.3f} nat per token away from the model before it."]


def _list(names: list[str]) -> str:
    """`a, b and c`"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

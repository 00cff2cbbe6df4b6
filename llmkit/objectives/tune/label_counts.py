"""Three sums per class, from which accuracy, F1 and MCC follow exactly, however the rows were dealt out.

    right_i   said i, and it was i          said_i   said i          true_i   was i

Added up over micro-batches and ranks, they give what one process would have counted; means of batches do not.
"""

import torch
from torch import Tensor

from llmkit.objectives.phase import Numbers


def counted(said: Tensor, true: Tensor) -> Numbers:
    """The three sums, of one-hot or multi-hot (N, L) answers and truths."""
    sums = {"right": (said * true).sum(0), "said": said.sum(0), "true": true.sum(0)}
    return {f"{name}_{i}": n for name, each in sums.items() for i, n in enumerate(each.unbind())}


def one_hot(numbers: Tensor, labels: int) -> Tensor:
    """Class numbers (N,) -> (N, L)."""
    return torch.nn.functional.one_hot(numbers.long(), labels)


def figures(seen: dict[str, float], labels: int) -> dict[str, float]:
    """macro_f1 and mcc from global sums; classes that are neither said nor true are left out of the mean.

    That is scikit-learn's f1_score(average="macro") and matthews_corrcoef (Gorodkin 2004, eq. 8).
    """
    right, said, true = ([seen[f"{name}_{i}"] for i in range(labels)] for name in ("right", "said", "true"))
    each = [2 * r / (s + t) for r, s, t in zip(right, said, true, strict=True) if s + t]
    n, hit = sum(true), sum(right)
    across = sum(s * t for s, t in zip(said, true, strict=True))
    spread = (n * n - sum(s * s for s in said)) * (n * n - sum(t * t for t in true))
    mcc = (hit * n - across) / spread**0.5 if spread > 0 else 0.0
    return {"macro_f1": sum(each) / max(1, len(each)), "mcc": mcc}


def micro_f1(seen: dict[str, float], labels: int) -> float:
    """F1 of all decisions together: for texts that may have several labels."""
    total = {name: sum(seen[f"{name}_{i}"] for i in range(labels)) for name in ("right", "said", "true")}
    return 2 * total["right"] / max(1, total["said"] + total["true"])

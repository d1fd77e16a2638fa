"""Classes from frozen features: votes of the nearest neighbours, and a linear layer, after DINOv2's protocol.

Sources: dinov2/eval/knn.py and linear.py of facebookresearch/dinov2 (Oquab et al. 2023, arXiv 2304.07193); the weighted
vote is that of Wu et al. 2018 (arXiv 1805.01978), standardization before the linear layer that of He et al. 2021 (MAE,
arXiv 2111.06377, appendix A.1), since encoders' features differ in scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""For a batch of 256; for others in proportion."""

_MOMENTUM = 0.9
_QUERIES = 1024  # whose similarities to all of the training's features are held at once


def knn(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Votes of the nearest neighbours, each with weight exp(cosine / temperature).

    Args:
        train: (N, D) features.
        labels: (N,) their classes, integers from 0.
        test: (M, D) features.
        classes: How many there are.
        neighbours: How many vote; numbers beyond N are left out, but for the smallest, which becomes N.
        temperature: See above.

    Returns:
        For each number of neighbours (M, classes) votes, which add up to 1.
    """
    _check(train, labels, classes)
    numbers = [k for k in neighbours if k <= len(train)] or [len(train)]
    known, votes = F.normalize(train.float(), dim=1), F.one_hot(labels.long(), classes).float()
    parts: dict[int, list[Tensor]] = {k: [] for k in numbers}
    for queries in F.normalize(test.float(), dim=1).split(_QUERIES):
        similar, nearest = (queries @ known.T).topk(max(numbers), dim=1)
        for k in numbers:
            weights = torch.softmax(similar[:, :k] / temperature, dim=1)
            parts[k].append((weights[..., None] * votes[nearest[:, :k]]).sum(dim=1))
    return {k: torch.cat(found) for k, found in parts.items()}


@dataclass(frozen=True)
class LinearProbe:
    """A linear layer on standardized features.

    Attributes:
        mean: (D,) of the training's features.
        std: (D,) of them.
        weight: (classes, D).
        bias: (classes,).
        learning_rate: The one that did best on frames held out from the training.
        held_out_accuracy: How well it did there.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    learning_rate: float
    held_out_accuracy: float

    def __call__(self, features: Tensor) -> Tensor:
        """(M, classes) scores of (M, D) features."""
        return (features.float() - self.mean) / self.std @ self.weight.T + self.bias


def fit_linear(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = 1000,
    batch_size: int = 128,
    validation: Tensor | None = None,
    seed: int = 0,
) -> LinearProbe:
    """Trains a linear layer by SGD with momentum 0.9 and a cosine schedule; the rate is chosen on held-out frames.

    All rates are tried at once on the training's frames but for those held out; with the best one it is trained anew on
    all of them. (DINOv2 chooses by the frames it reports, which flatters.)

    Args:
        features: (N, D).
        labels: (N,) classes, integers from 0.
        classes: How many there are.
        learning_rates: The grid.
        steps: Of SGD.
        batch_size: Frames in each.
        validation: (N,) booleans: which frames choose the rate. Default: a fifth, drawn at random.
        seed: Of batches and the draw.

    Raises:
        ValueError: For labels that do not fit.
    """
    _check(features, labels, classes)
    features, labels = features.float(), labels.long()
    std, mean = torch.std_mean(features, dim=0, correction=0)
    std = std.clamp(min=1e-6)
    x = (features - mean) / std
    draw = torch.Generator().manual_seed(seed)
    if validation is None:
        validation = torch.zeros(len(x), dtype=torch.bool)
        validation[torch.randperm(len(x), generator=draw)[: len(x) // 5]] = True
    settings = (classes, steps, batch_size, seed)
    weights, biases = _sgd(x[~validation], labels[~validation], learning_rates, *settings)
    scores = torch.einsum("nd,rcd->rnc", x[validation], weights) + biases[:, None]
    accuracy = (scores.argmax(dim=2) == labels[validation]).float().mean(dim=1)
    best = int(accuracy.argmax())
    rate = learning_rates[best]
    weights, biases = _sgd(x, labels, [rate], *settings)
    return LinearProbe(mean, std, weights[0], biases[0], rate, float(accuracy[best]))


def _sgd(
    x: Tensor, labels: Tensor, rates: Sequence[float], classes: int, steps: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """A layer for each rate, all trained on the same batches: (rates, classes, D) and (rates, classes)."""
    draw = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(1, classes, x.shape[1], generator=draw).repeat(len(rates), 1, 1)
    bias = torch.zeros(len(rates), classes)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    batch_size = min(batch_size, len(x))
    peak = torch.tensor(list(rates)) * batch_size / 256
    for step in range(steps):
        chosen = torch.randint(len(x), (batch_size,), generator=draw)
        batch = x[chosen]
        # The gradient of the cross-entropy's mean over the batch.
        error = torch.softmax(torch.einsum("bd,rcd->rbc", batch, weight) + bias[:, None], dim=2)
        error[:, torch.arange(batch_size), labels[chosen]] -= 1
        gradients = (torch.einsum("rbc,bd->rcd", error, batch) / batch_size, error.mean(dim=1))
        rate = peak * (1 + math.cos(math.pi * step / steps)) / 2
        for parameter, moved, gradient in zip((weight, bias), velocity, gradients, strict=True):
            moved.mul_(_MOMENTUM).add_(gradient)
            parameter.sub_(rate.view(-1, *[1] * (parameter.ndim - 1)) * moved)
    return weight, bias


def top_k_correct(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Whether each label is among the k classes with the highest scores: (M,) booleans of (M, classes) scores."""
    return (scores.topk(min(k, scores.shape[1]), dim=1).indices == labels.long()[:, None]).any(dim=1)


def _check(features: Tensor, labels: Tensor, classes: int) -> None:
    if features.ndim != 2 or len(features) != len(labels) or not len(features):
        raise ValueError(
            f"expected features (N, D) and a label for each, got {tuple(features.shape)} and {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}."
        )

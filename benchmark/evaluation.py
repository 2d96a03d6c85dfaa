"""Exact evaluation of a network on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.images import BatchSource

EVAL_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """Per image, in the split's order: predicted class, true-class margin, whether top-5 holds."""

    predicted: Tensor  # (N,) uint8 up to 256 classes, else int16
    margin: Tensor  # (N,) float16: logit of the true class minus the best other
    top1: float
    top5: float | None  # with 20 classes or more
    loss: float


@torch.no_grad()
def evaluate(net: nn.Module, source: BatchSource, batch_size: int = EVAL_BATCH) -> Evaluation:
    """Exact accuracy in eval mode, float32: counts over images, whatever the batch size. Leaves
    the mode of `net` as it was."""
    was_training = net.training
    net.eval()
    predicted, margins, correct, in_top5, loss = [], [], 0, 0, 0.0
    classes = 0
    for rows in torch.arange(len(source)).split(batch_size):
        x, y = source.batch(rows)
        logits = net(x).float()
        classes = logits.shape[1]
        guess = logits.argmax(1)
        correct += int((guess == y).sum())
        if classes >= 20:
            in_top5 += int((logits.topk(5).indices == y[:, None]).any(1).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        true = logits.gather(1, y[:, None])[:, 0]
        other = logits.scatter(1, y[:, None], -torch.inf).max(1).values
        predicted.append(guess.to(torch.uint8 if classes <= 256 else torch.int16).cpu())
        margins.append((true - other).clamp(-6e4, 6e4).half().cpu())
    net.train(was_training)
    images = len(source)
    return Evaluation(
        torch.cat(predicted),
        torch.cat(margins),
        correct / images,
        in_top5 / images if classes >= 20 else None,
        loss / images,
    )

"""A network on a split: exact evaluation, batch-norm statistics, and a balanced choice of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.sources import Source
from benchmark.team import ALONE, Team

EVAL_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """Per image, in the split's order: predicted class, true-class margin, whether top-5 holds."""

    predicted: Tensor  # (N,) uint8 up to 256 classes, else int16
    margin: Tensor  # (N,) float16: logit of the true class minus the best other
    top1: float
    top5: float | None  # with 20 classes or more
    loss: float


@dataclass(frozen=True)
class Found:
    """Of one batch."""

    predicted: Tensor
    margin: Tensor
    correct: int
    in_top5: int | None
    loss: float


@torch.no_grad()
def evaluate(
    net: nn.Module,
    source: Source,
    batch_size: int = EVAL_BATCH,
    team: Team = ALONE,
    rows: Tensor | None = None,
) -> Evaluation:
    """Exact accuracy in eval mode, float32: counts over images, whatever the batch size. Leaves
    the mode of `net` as it was. A team shares the batches; the sums are those of one process.
    `rows` (N,): of these images alone."""
    was_training = net.training
    net.eval()
    batches = (torch.arange(len(source)) if rows is None else rows).split(batch_size)
    mine = batches[team.rank :: team.size]
    source.ahead(mine)
    own = [_on_batch(net, source, rows) for rows in mine]
    net.train(was_training)
    shares = team.gather(own)
    found = [shares[i % team.size][i // team.size] for i in range(len(batches))]
    images = len(source) if rows is None else len(rows)
    in_top5 = [b.in_top5 for b in found if b.in_top5 is not None]
    return Evaluation(
        torch.cat([b.predicted for b in found]),
        torch.cat([b.margin for b in found]),
        sum(b.correct for b in found) / images,
        sum(in_top5) / images if in_top5 else None,
        sum(b.loss for b in found) / images,
    )


def _on_batch(net: nn.Module, source: Source, rows: Tensor) -> Found:
    x, y = source.batch(rows)
    logits = net(x).float()
    classes = logits.shape[1]
    guess = logits.argmax(1)
    top5 = (logits.topk(5).indices == y[:, None]).any(1) if classes >= 20 else None
    true = logits.gather(1, y[:, None])[:, 0]
    other = logits.scatter(1, y[:, None], -torch.inf).max(1).values
    return Found(
        guess.to(torch.uint8 if classes <= 256 else torch.int16).cpu(),
        (true - other).clamp(-6e4, 6e4).half().cpu(),
        int((guess == y).sum()),
        None if top5 is None else int(top5.sum()),
        float(F.cross_entropy(logits, y, reduction="sum")),
    )


@torch.no_grad()
def recalibrate(net: nn.Module, source: Source, rows: Tensor, sizes: tuple[int, ...]) -> None:
    """Replace BN running statistics by their mean over un-augmented batches of these sizes; leaves
    `net` in eval mode."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [n.momentum for n in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    net.train()
    batches = rows[: sum(sizes)].split(list(sizes)) if sizes else ()
    source.ahead(batches)
    for batch in batches:
        net(source.batch(batch)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def balanced(labels: Tensor, classes: int, seed: int) -> Tensor:
    """(N,) rows: the classes in turn, in an order fixed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    labels = labels[order]
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=classes)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)  # of its class, in `by_class`
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(labels)) - first
    return order[torch.sort(place * classes + labels, stable=True).indices]

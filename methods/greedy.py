"""Greedy choice of input channels by gradients, and the images for it (METHODS 7.4).

Shapes: n outputs and C inputs of a layer, weights (n, C, k, k) or (n, C).
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

BATCH, MOMENTUM, DECAY = 128, 0.9, 1e-4  # of the official code; Nesterov

Images = Iterator[tuple[Tensor, Tensor]]  # (N, 3, H, W), (N,)
Loss = Callable[[Tensor, Tensor], Tensor]
Norm = Literal["columns", "kernels"]


def greedy_sizes(width: int, steps: int) -> list[int]:
    """Channels that are active after each of `steps` steps, or after each of `width`: equal shares
    of `width`."""
    steps = min(steps, width)
    return [-(-width * (step + 1) // steps) for step in range(steps)]


def column_norms(gradients: list[Tensor], norm: Norm) -> Tensor:
    """(C,) of gradients (n, C, k, k) or (n, C) of the layers that read the same channels:
    ||G[:, c]||_F (paper) or the sum over outputs of ||G[j, c]||_F (official code)."""
    kernels = torch.cat([g.reshape(*g.shape[:2], -1).norm(dim=2) for g in gradients])
    return kernels.sum(0) if norm == "kernels" else kernels.norm(dim=0)


def choose(
    weights: list[nn.Parameter],
    biases: list[nn.Parameter],
    loss: Loss,
    turns: Iterator[Images],
    sizes: list[int],
    norm: Norm,
    lr: float,
) -> tuple[Tensor, list[float]]:
    """Active channels (C,) bool after as many steps as there are sizes, and the mean loss before
    each (algorithm 2 of DCP).

    No channel is active at first. A step sums the gradients of the losses of one turn's batches,
    activates the channels with the largest norms (ties: the lowest index) with their original
    weights, and descends over another turn. Weights of active channels end as they were learnt,
    all others as they began.
    """
    learnt = [*weights, *biases]
    original = [w.detach().clone() for w in weights]
    active = torch.zeros(weights[0].shape[1], dtype=torch.bool, device=weights[0].device)
    losses = []
    for parameter in learnt:
        parameter.requires_grad_(True)
    with torch.no_grad():
        for w in weights:
            w.zero_()
    for size in sizes:
        total, before = [torch.zeros_like(w) for w in weights], []
        for x, y in next(turns):
            value = loss(x, y)
            before.append(float(value.detach()))
            for t, g in zip(total, torch.autograd.grad(value, weights), strict=True):
                t += g
        losses.append(sum(before) / len(before))
        norms = column_norms(total, norm).masked_fill(active, -1.0)
        new = norms.sort(descending=True, stable=True).indices[: size - int(active.sum())]
        active[new] = True
        with torch.no_grad():
            for w, o in zip(weights, original, strict=True):
                w[:, new] = o[:, new]
        _descend(weights, learnt, active, loss, next(turns), lr)
    with torch.no_grad():
        for w, o in zip(weights, original, strict=True):
            w[:, ~active] = o[:, ~active]
    for parameter in learnt:
        parameter.requires_grad_(False)
    return active, losses


def _descend(
    weights: list[nn.Parameter],
    learnt: list[nn.Parameter],
    active: Tensor,
    loss: Loss,
    images: Images,
    lr: float,
) -> None:
    """One turn of SGD; the weights of other channels stay at zero, which decay leaves alone."""
    optimizer = torch.optim.SGD(learnt, lr, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    for x, y in images:
        gradients = torch.autograd.grad(loss(x, y), learnt)
        for parameter, gradient in zip(learnt, gradients, strict=True):
            parameter.grad = gradient
        for w in weights:
            assert w.grad is not None
            w.grad[:, ~active] = 0.0
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def frozen(net: Any) -> Iterator[None]:
    """Within the block no parameter needs a gradient until it is told to."""
    before = [(p, p.requires_grad) for p in net.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def passes(trainer: Any, count: int, images: int) -> Iterator[Iterator[Images]]:
    """So many passes over so many training images each, one after the other through the split, in
    batches of BATCH at most. They are charged as they are drawn where gradients are enabled."""
    sizes = [len(rows) for rows in torch.arange(images).split(BATCH)]
    drawn = _stream(trainer, images * count)
    batches = rebatched(drawn, sizes * count)
    try:
        yield (itertools.islice(batches, len(sizes)) for _ in range(count))
    finally:
        drawn.close()


def _stream(trainer: Any, images: int) -> Generator[tuple[Tensor, Tensor], None, None]:
    size = trainer.train_images
    for left in range(images, 0, -size):
        yield from trainer.batches(images=min(left, size))


def rebatched(source: Images, sizes: Iterable[int]) -> Images:
    """The same images in the same order, in batches of these sizes."""
    held: list[tuple[Tensor, Tensor]] = []
    for size in sizes:
        while sum(len(y) for _, y in held) < size:
            held.append(next(source))
        x, y = (torch.cat(parts) for parts in zip(*held, strict=True))
        held = [(x[size:], y[size:])] if len(y) > size else []
        yield x[:size], y[:size]

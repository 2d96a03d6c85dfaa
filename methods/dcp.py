"""DCP: the input channels stay whose weights the joint loss pulls hardest, chosen greedily."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.api import Allocation, Budget, ChannelGroup, Method, Plan, Unsupported
from methods.aux_heads import Head, gradient_shares, places
from methods.greedy import Loss, Norm, choose, frozen, greedy_sizes, passes

LEAST = 16  # images of a pass, where fewer greedy steps leave it so many


@dataclass(frozen=True)
class DCP(Method):
    """Discrimination-aware channel pruning (Zhuang et al., NeurIPS 2018, algorithms 1 and 2) within
    a budget: METHODS 7."""

    heads: int = 3  # additional losses
    head_epochs: float = 0.0  # of their training; 0: a twelfth of the budget
    greedy_epochs: float = 0.0  # of all selection; 0: a quarter of the budget
    steps: int = 4  # greedy steps per layer, fewer where images are few; 0: one per channel
    norm: Norm = "columns"  # the official code: kernels
    mse_weight: float = 0.5  # the paper halves the squared error, the code does not
    loss_weight: float = 1.0  # lambda
    lr: float = 0.01
    head_lr: float = 1.0  # of heads alone; the code's 0.1 teaches them little in a short phase
    train_weights: bool = False  # together with the heads, as the official code does

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "listed")
    shares: ClassVar[dict[str, float]] = {"head_epochs": 1 / 12, "greedy_epochs": 0.25}
    refits: ClassVar[bool] = True

    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        widths = net.allocate(budget)
        groups = [g for g in net.groups if widths[g.name] < g.width]
        keep = {g.name: tuple(range(g.width)) for g in net.groups}
        for group in groups:
            _check_readers(net, group)
        if not groups:
            return Plan(keep)
        heads = self.train_heads(net, trainer)
        steps, images, count = self.schedule([widths[g.name] for g in groups], trainer)
        losses = {}
        with torch.enable_grad(), frozen(net), passes(trainer, count, images) as turns:
            reference = net.copy()
            for group in groups:
                weights = [net.module(r).weight for r in group.readers]
                biases = [b for r in group.readers if (b := net.bias(r)) is not None]
                sizes = greedy_sizes(widths[group.name], steps)
                with self.joint_loss(net, reference, heads, group) as loss:
                    active, losses[group.name] = choose(
                        weights, biases, loss, turns, sizes, self.norm, self.lr
                    )
                keep[group.name] = tuple(active.nonzero()[:, 0].tolist())
                net.mask(group.name, keep[group.name])
        trainer.note("greedy", {"steps": steps, "images_per_pass": images, "loss": losses})
        return Plan(keep)

    def train_heads(self, net: Any, trainer: Any) -> dict[str, Head]:
        """Each by the layer in front of which it stands; they and the network end in eval mode."""
        at, heads = places(len(net.groups), self.heads), {}
        for place, share in zip(at, gradient_shares(at), strict=True):
            layer = net.groups[place].layers[0]
            width = net.weight(layer).shape[1] * getattr(net.module(layer), "groups", 1)
            heads[layer] = Head(width, trainer.num_classes, share).to(trainer.device)
        if heads:
            with net.gated(heads, at="in"):
                trainer.fit(
                    net,
                    self.head_epochs,
                    lr=self.head_lr,
                    penalty=lambda: torch.stack([h.loss for h in heads.values()]).sum(),
                    only=None if self.train_weights else heads,
                )
        net.eval()
        return {layer: head.settled() for layer, head in heads.items()}

    def schedule(self, widths: list[int], trainer: Any) -> tuple[int, int, int]:
        """Greedy steps per layer, images of a pass, passes (two a step): the most steps, up to
        `steps`, that leave each pass LEAST images; one step and one image at least."""
        allowed = self.greedy_epochs * trainer.train_images
        most = min(self.steps, max(widths)) if self.steps > 0 else max(widths)
        for steps in range(most, 0, -1):
            count = 2 * sum(min(w, steps) for w in widths)
            images = int(allowed / count + 1e-9)
            if images >= LEAST:
                break
        return steps, min(max(1, images), trainer.train_images), count

    @contextlib.contextmanager
    def joint_loss(
        self, net: Any, reference: Any, heads: dict[str, Head], group: ChannelGroup
    ) -> Iterator[Loss]:
        """L_M + lambda L_S of the readers of the group, as a function of a batch. L_S is the loss
        of the first head behind them: the first that needs a gradient; else the network's own."""

        def loss(x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                reference(x, y)
            own = F.cross_entropy(net(x, y), y)
            told = next((h.loss for h in heads.values() if h.loss.requires_grad), own)
            wrong = [F.mse_loss(found[r], target[r]) for r in group.readers]
            return self.mse_weight * torch.stack(wrong).sum() + self.loss_weight * told

        taps = net.tapped("conv", group.readers), reference.tapped("conv", group.readers)
        with net.gated(heads, at="in"), taps[0] as found, taps[1] as target:
            yield loss


def _check_readers(net: Any, group: ChannelGroup) -> None:
    if len(group.layers) > 1:
        raise Unsupported("dcp chooses what is read of one layer: use --scope inner")
    if any(net.weight(r).shape[1] != group.width for r in group.readers):
        raise Unsupported(f"dcp needs readers that read {group.name} alone")

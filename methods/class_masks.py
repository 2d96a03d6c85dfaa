"""Class-wise masks as gates of a network, what they let through of the labels, and the official
search by their votes."""

import torch
from torch import Tensor, nn

from methods.api import Budget, Network, Plan, Scores, Trainer, Unsupported
from methods.kit import mean_and_interval


class Mixing:
    """Weights of the classes, drawn anew for every layer, image and step: 1 for the image's own
    class, uniform in [0, 1) for the others (official code, `torch.rand`)."""

    def __init__(self, trainer: Trainer, layers: int) -> None:
        self.trainer, self.layers, self.active = trainer, layers, True

    def of(self, labels: Tensor, position: int) -> Tensor:
        """(N,) labels -> (N, K) of the layer at this position; one draw serves all layers."""
        classes = self.trainer.num_classes
        if position == 0:
            drawn = self.trainer.noise(self.layers * classes, salt=1).unflatten(1, (-1, classes))
            own = labels[:, None, None].expand(-1, self.layers, 1)
            self.drawn = drawn.scatter(2, own, 1.0)
        return self.drawn[:, position]


class ClassMask(nn.Module):
    """x * guide, guide = D M / divisor: METHODS 1.2."""

    def __init__(self, width: int, mixing: Mixing, position: int, divisor: float) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones(mixing.trainer.num_classes, width))  # (K, C)
        self.idle = nn.Parameter(torch.ones(1))  # a mask entry that no image uses: decays only
        self.mixing, self.position, self.divisor = mixing, position, divisor

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W)"""
        if not self.mixing.active:
            return x
        guide = self.mixing.of(labels, self.position) @ self.mask / self.divisor  # (N, C)
        return x * guide.to(x.dtype)[:, :, None, None]


@torch.no_grad()
def leakage(net: Network, mixing: Mixing, trainer: Trainer) -> dict[str, dict[str, float]]:
    """Does the network read the label from the guide instead of from the image (METHODS 1.6)?
    On validation images; each difference of accuracies with its 95 % interval."""
    hits: dict[str, list[Tensor]] = {"plain": [], "true": [], "wrong": [], "noise": []}
    classes, draw = trainer.num_classes, trainer.generator(salt=2)
    net.eval()
    for x, labels in trainer.batches(split="val"):
        shift = torch.randint(1, classes, (len(labels),), generator=draw).to(labels.device)
        noise = torch.randn(x.shape, generator=draw).to(x.device)
        for case, images, told in (
            ("plain", x, labels),
            ("true", x, labels),
            ("wrong", x, (labels + shift) % classes),
            ("noise", noise, labels),
        ):
            mixing.active = case != "plain"
            hits[case].append((net(images, told).argmax(1) == labels).double().cpu())
    mixing.active = True
    if not hits["plain"]:
        return {}
    found = {case: torch.cat(parts) for case, parts in hits.items()}
    return {
        "noise_minus_chance": mean_and_interval(found["noise"] - 1 / classes),
        "true_minus_wrong_label": mean_and_interval(found["true"] - found["wrong"]),
        "true_label_minus_unmasked": mean_and_interval(found["true"] - found["plain"]),
    }


def official_search(net: Network, scores: Scores, budget: Budget) -> Plan:
    """The first of the thresholds 0.90, 0.89, ... of all votes that meets the target (METHODS 1.4);
    the last one tried where none does.

    Raises:
        Unsupported: multiples are asked for, or a group of a grouped convolution goes together,
            which the search of the code does not know.
    """
    if budget.round_to > 1:
        raise Unsupported("--round-to: the width search of the official code has no multiples")
    pool = torch.cat([s.cpu() for s in scores.values()]).sort(descending=True).values
    keep: dict[str, tuple[int, ...]] = {}
    for percent in range(90, 0, -1):
        threshold = pool[max(0, int(len(pool) * percent / 100) - 1)]
        for group in net.groups:
            score = scores[group.layers[0]].cpu()
            if len(score) != group.width:
                raise Unsupported(
                    f"the official search has no units of several channels: {group.name}"
                )
            floor = max(1, int(group.width * budget.min_keep))
            width = max(int((score >= threshold).sum()), floor)
            order = torch.sort(score, descending=True, stable=True).indices
            keep[group.name] = tuple(sorted(order[:width].tolist()))
        if 1 - net.macs(Plan(keep).widths()) / net.macs() >= budget.macs_cut:
            break
    return Plan(keep)

"""HRank: filters whose feature maps have a low rank go."""

from dataclasses import dataclass

import torch

from methods.api import Method, Network, Scores, Trainer, Unsupported
from methods.kit import matrix_ranks


@dataclass(frozen=True)
class HRank(Method):
    """Mean rank of the maps after the activation (Lin et al., CVPR 2020, section 3.3)."""

    num_images: int = 500

    def score(self, net: Network, trainer: Trainer) -> Scores:
        total = {n: torch.zeros(len(net.weight(n)), dtype=torch.int64) for n in net.layers}
        net.eval()
        images = 0
        # a residual block's last convolution is judged by the block's output, as the code does
        sites = {n: net.last_site(n, through_add=True) for n in net.layers}
        with torch.no_grad(), net.tapped(sites, through_add=True) as maps:
            for x, _ in trainer.batches(images=self.num_images):
                net(x)
                images += len(x)
                for layer in net.layers:
                    total[layer] += matrix_ranks(maps[layer]).sum(0).cpu()
        if not images:
            raise Unsupported("no images left in the forward-only share of the budget")
        return {layer: ranks / images for layer, ranks in total.items()}

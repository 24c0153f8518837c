"""A running average of the weights (EMA) that suits short runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

COLD_STEPS = 10  # how slowly the average forgets where it began


class WeightAverage:
    """A running average of parameters and statistics that follows fast at first, slower later.

    With a constant decay of 0.99 a run of 100 steps would keep a third of its random beginning.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the weights after this step; the first is step 1."""
        keep = min(self.decay, step / (step + COLD_STEPS))
        for name, tensor in network.state_dict().items():
            kept = self.state[name]
            if tensor.is_floating_point():
                kept.lerp_(tensor, 1 - keep)
            else:
                kept.copy_(tensor)

    def copy_to(self, network: nn.Module) -> None:
        """Makes the average the network's weights."""
        network.load_state_dict(self.state)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state` of the same network, in this one's memory layout."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

"""The optimiser of a run's settings, and the running average of what it moves."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bitvit.train.layers import BinaryDownsampling
from bitvit.train.network import binary_weights
from bitvit.train.settings import Settings

__all__ = ["Average", "build_optimizer"]


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov's momentum of 0.9, at a rate of 0: each step sets its own."""
    groups = _groups(model, settings.weight_decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: with it only matrices that are used as they are."""
    binary = {id(weight) for _, weight in binary_weights(model)}
    binary |= {id(m.proj.weight) for m in model.modules() if isinstance(m, BinaryDownsampling)}
    plain = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)} - binary
    decayed = [p for p in model.parameters() if id(p) in plain]
    others = [p for p in model.parameters() if id(p) not in plain]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


class Average:
    """Exponential moving average of a network's parameters; of the last values alone with a decay of 0."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.parameters = list(model.parameters())
        self.values: list[Tensor] = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """To be called after each step of the optimiser; in the first ones the average forgets faster."""
        self.steps += 1
        move = get_ema_multi_avg_fn(min(self.decay, self.steps / (self.steps + 10)))
        move(self.values, self.parameters, self.steps)

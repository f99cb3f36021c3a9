"""How restless the binary weights are: the share whose sign flipped within the last N steps."""

from typing import Any

import torch
from torch import Tensor, nn

from bitvit.train.network import binary_weights

__all__ = ["FlipCounter"]

NEVER = -(1 << 30)


class FlipCounter:
    """Remembers each binary weight's sign, and at which step it last flipped."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = dict(binary_weights(model))
        self.step = 0
        self.signs = {name: _signs(weight) for name, weight in self.weights.items()}
        self.flipped = {name: torch.full_like(sign, NEVER, dtype=torch.int32) for name, sign in self.signs.items()}

    def update(self) -> None:
        """To be called after each step of the optimiser."""
        self.step += 1
        for name, weight in self.weights.items():
            now = _signs(weight)
            self.flipped[name].masked_fill_(now != self.signs[name], self.step)
            self.signs[name] = now

    def share(self, window: int) -> float:
        """Share of all binary weights whose sign flipped at least once in the last `window` steps."""
        total = sum(flipped.numel() for flipped in self.flipped.values())
        restless = sum(int((flipped > self.step - window).sum()) for flipped in self.flipped.values())
        return restless / total if total else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "signs": self.signs, "flipped": self.flipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What state_dict gave, on the weights' device."""
        self.step = state["step"]
        for own, saved in ((self.signs, state["signs"]), (self.flipped, state["flipped"])):
            for name, values in saved.items():
                own[name] = values.to(own[name].device)


@torch.no_grad()
def _signs(weight: Tensor) -> Tensor:
    """Whether each centred weight is positive, which is its bit (SPEC 8.1)."""
    return weight > weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1))

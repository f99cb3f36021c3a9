"""The loss: (1 - λ) task + λ distillation + β regulariser."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.train.network import binary_weights

__all__ = ["distillation", "oscillation", "task"]


def task(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with labels [B], or their shares [B, L], smoothed."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the network's softmax against the teacher's, no temperature, mean over the batch."""
    return -(teacher.float().softmax(-1) * logits.float().log_softmax(-1)).sum(-1).mean()


def oscillation(model: nn.Module) -> Tensor:
    """The mean over binary weight tensors of mean | |w| - 1 | (the paper's regulariser).

    It pulls latent weights away from zero, where Adam's steps would flip their signs to and fro, toward -1 and +1.
    """
    return torch.stack([(weight.abs() - 1).abs().mean() for _, weight in binary_weights(model)]).mean()

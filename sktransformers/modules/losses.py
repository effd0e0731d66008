"""Losses as weighted sums: whoever accumulates gradients divides by the weights of the batch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktransformers.modules.crf import CRFOutput, log_likelihood, viterbi


class CrossEntropy(nn.Module):
    r"""Weighted sum of :math:`-\log softmax(z)_y` over the rows."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for logits in it, in float64.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes)
        targets : Tensor of shape (n,)
            Class positions.
        weights : Tensor of shape (n,)
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, targets, reduction="none")
        return (losses * weights).sum()


class SquaredError(nn.Module):
    r"""Weighted sum of :math:`(z - y)^2` over the rows."""

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape ().

        Parameters
        ----------
        outputs : Tensor of shape (n, 1)
        targets, weights : Tensor of shape (n,)
        """
        return _weighted_sum(F.mse_loss, outputs, targets, weights)


class Huber(nn.Module):
    r"""Weighted sum of Huber's loss: :math:`e^2 / 2` for errors up to one, else :math:`|e| - 1/2`.

    Huber 1964, with a threshold of one standard deviation, since targets are standardised.
    """

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (); parameters as in `SquaredError`."""
        return _weighted_sum(F.huber_loss, outputs, targets, weights)


class CRFLoss(nn.Module):
    r"""Weighted sum of :math:`-\log p(y)` over sentences, y the tags of all their words.

    A sentence weighs what its words weigh on average. Its term is already a sum over words, so
    that divided by the weights of all words the loss is an average over words, comparable with
    that of tags scored one by one. A path has one probability, and a weight of one of its
    words, such as that of its tag's class, has nothing else to act on than all of it.
    """

    def forward(self, output: CRFOutput, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for scores in it, in float64.

        Parameters
        ----------
        output : CRFOutput
        targets : LongTensor of shape (n_words,)
            Tag positions, sentence after sentence.
        weights : Tensor of shape (n_words,)
        """
        losses = -log_likelihood(output, targets)
        lengths = output.lengths.to(weights.device)
        sentences = torch.arange(len(lengths), device=weights.device)
        sentences = sentences.repeat_interleave(lengths, output_size=len(weights))
        sums = torch.zeros_like(losses).index_add(0, sentences, weights.to(losses.dtype))
        return (losses * sums / lengths.clamp(min=1)).sum()


def _weighted_sum(loss: Any, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    outputs = outputs[:, 0].to(torch.promote_types(outputs.dtype, torch.float32))
    return (loss(outputs, targets.to(outputs.dtype), reduction="none") * weights).sum()


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """How many rows have their largest logit at the target."""
    return (logits.argmax(dim=-1) == targets).sum()


def count_correct_paths(output: CRFOutput, tags: Tensor) -> Tensor:
    """How many words have their tag in the best sequence of a CRF."""
    return (viterbi(output) == tags).sum()

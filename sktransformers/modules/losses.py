"""Losses as weighted sums: whoever accumulates gradients divides by the weights of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktransformers.modules.crf import CRFOutput, log_likelihood, viterbi


class CrossEntropy(nn.Module):
    r"""Weighted sum of :math:`-\sum_c q_c \log softmax(z)_c` over the rows.

    The target q of a label is one at its class; with label smoothing s and K classes any q
    becomes :math:`(1 - s) q + s / K` (Szegedy et al. 2016, arXiv:1512.00567, section 7). The
    weight of a row multiplies all of its loss, the smoothed part included; torch's
    ``F.cross_entropy(weight=..., label_smoothing=...)`` weighs the smoothed classes one by one.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        s above.
    class_weights : Tensor of shape (n_classes,), default=None
        For soft targets: q becomes proportional to q times these. That a row with the weight
        :math:`\sum_c w_c q_c` then contributes :math:`-\sum_c w_c q_c \log p_c` is torch's
        definition.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for logits in it, in float64.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes)
        targets : LongTensor of shape (n,) or Tensor of shape (n, n_classes)
            Class positions, or probabilities of the classes.
        weights : Tensor of shape (n,)
        """
        logits = _precise(logits)
        if targets.ndim == 2:
            targets = targets.to(logits.dtype)
            if self.class_weights is not None:
                targets = targets * self.class_weights.to(logits.dtype)
                total = targets.sum(dim=1, keepdim=True)
                targets = targets / total.clamp(min=torch.finfo(logits.dtype).tiny)
        losses = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses * weights).sum()


class Focal(nn.Module):
    r"""Weighted sum of :math:`-(1 - p_y)^\gamma \log p_y` over the rows, p the softmax.

    Lin et al. 2017 (arXiv:1708.02002), equation 4.

    Parameters
    ----------
    gamma : float
        Exponent.
    """

    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (); parameters as in `CrossEntropy`, with class positions."""
        logits = _precise(logits)
        log_proba = logits.log_softmax(dim=1)
        at_target = targets.unsqueeze(1)
        # log(1 - p) from the other classes: 1 - p itself is rounded to zero where p is near one,
        # and for an exponent below one its power has no gradient there.
        others = log_proba.scatter(1, at_target, -torch.inf).logsumexp(dim=1)
        losses = -log_proba.gather(1, at_target).squeeze(1) * (self.gamma * others).exp()
        return (losses * weights).sum()


class BinaryCrossEntropy(nn.Module):
    r"""Weighted sum of :math:`-\frac1L \sum_c w_c y_c \log p_c + (1 - y_c) \log(1 - p_c)`.

    Over rows of L labels, each present (y is one) or not, with :math:`p_c = \sigma(z_c)`.

    Parameters
    ----------
    pos_weight : Tensor of shape (n_labels,), default=None
        w above; None means one.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None):
        super().__init__()
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for logits in it, in float64.

        Parameters
        ----------
        logits, targets : Tensor of shape (n, n_labels)
        weights : Tensor of shape (n,)
        """
        logits = _precise(logits)
        factor = None if self.pos_weight is None else self.pos_weight.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none", pos_weight=factor
        )
        return (losses.mean(dim=1) * weights).sum()


class SquaredError(nn.Module):
    r"""Weighted sum of :math:`(z - y)^2` over the rows."""

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape ().

        Parameters
        ----------
        outputs : Tensor of shape (n, 1)
        targets, weights : Tensor of shape (n,)
        """
        outputs = _precise(outputs[:, 0])
        losses = F.mse_loss(outputs, targets.to(outputs.dtype), reduction="none")
        return (losses * weights).sum()


class Huber(nn.Module):
    r"""Weighted sum of Huber's loss of errors e over the rows (Huber 1964).

    :math:`e^2 / 2` for errors up to :math:`\delta`, else :math:`\delta (|e| - \delta / 2)`.

    Parameters
    ----------
    delta : float, default=1.0
        Threshold, in standard deviations, since targets are standardised.
    """

    def __init__(self, delta: float = 1.0):
        super().__init__()
        self.delta = delta

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (); parameters as in `SquaredError`."""
        outputs = _precise(outputs[:, 0])
        targets = targets.to(outputs.dtype)
        losses = F.huber_loss(outputs, targets, reduction="none", delta=self.delta)
        return (losses * weights).sum()


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


def _precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """How many rows have their largest logit at the target, or at the largest soft target."""
    if targets.ndim == logits.ndim:
        targets = targets.argmax(dim=-1)
    return (logits.argmax(dim=-1) == targets).sum()


def share_of_right_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of the share of labels whose presence has the sign of its logit."""
    return ((logits > 0) == (targets > 0)).float().mean(dim=1).sum()


def count_correct_paths(output: CRFOutput, tags: Tensor) -> Tensor:
    """How many words have their tag in the best sequence of a CRF."""
    return (viterbi(output) == tags).sum()

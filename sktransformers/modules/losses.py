"""Losses as weighted sums: whoever accumulates gradients divides by the weights of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktransformers.modules.crf import CRFOutput, log_likelihood, viterbi
from sktransformers.modules.softmax import Deferred, precise


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
        logits = precise(logits)
        if targets.ndim == 2:
            targets = self._weighted(targets.to(logits.dtype))
        losses = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses * weights).sum()

    def of_frequencies(self, targets: Tensor, weights: Tensor, n_classes: int) -> Tensor:
        """The smallest mean loss, of shape (), that one prediction for all rows can have.

        Zero if all rows are of one class, and there is no label smoothing. Parameters are as in
        ``forward``.
        """
        weights = weights.to(torch.float64)
        if targets.ndim == 2:
            sums = weights @ self._weighted(targets.to(torch.float64))
        else:
            sums = torch.bincount(targets, weights, n_classes)
        share = (1 - self.label_smoothing) * sums / weights.sum() + self.label_smoothing / n_classes
        return torch.special.entr(share).sum()

    def _weighted(self, targets: Tensor) -> Tensor:
        """Soft targets in proportion to themselves times the class weights."""
        if self.class_weights is None:
            return targets
        targets = targets * self.class_weights.to(targets.device, targets.dtype)
        total = targets.sum(dim=1, keepdim=True)
        return targets / total.clamp(min=torch.finfo(targets.dtype).tiny)


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
        logits = precise(logits)
        log_proba = logits.log_softmax(dim=1)
        at_target = targets.unsqueeze(1)
        # log(1 - p) from the other classes: 1 - p itself is rounded to zero where p is near one,
        # and for an exponent below one its power has no gradient there.
        others = log_proba.scatter(1, at_target, -torch.inf).logsumexp(dim=1)
        losses = -log_proba.gather(1, at_target).squeeze(1) * (self.gamma * others).exp()
        return (losses * weights).sum()


class LayerLikelihood(nn.Module):
    r"""Weighted sum of :math:`-\log p_y` over the rows, where the last layer knows :math:`p_y`."""

    def forward(self, output: Deferred | Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for vectors in it, in float64.

        Parameters
        ----------
        output : Deferred, or Tensor of shape (n, n_classes)
            Vectors and their layer, or the log-probabilities that it gives.
        targets : LongTensor of shape (n,)
            Class positions.
        weights : Tensor of shape (n,)
        """
        if isinstance(output, Deferred):
            found = output.out.log_likelihood(output.vectors, targets)
        else:
            found = output.gather(1, targets.unsqueeze(1)).squeeze(1)
        return -(found * weights).sum()


class SampledCrossEntropy(nn.Module):
    r"""Cross-entropy against some of the other classes, a weighted sum over the rows.

    With a sample S of the classes, drawn anew for every batch, the softmax of a row runs over
    its label y and S without y, with the logits :math:`z_y` and :math:`z_c - \log \pi_c`
    (Bengio and Senecal 2008; Jean et al. 2015, arXiv:1412.2007, section 3).

    Classes are drawn without replacement: those with the n smallest of the times
    :math:`T_c = E_c / q_c`, with :math:`E_c` exponentially distributed and q the proposal. With
    the (n + 1)-th time t, :math:`\pi_c = P(T_c < t) = 1 - \exp(-q_c t)` makes the sum over S of
    :math:`\exp(z_c) / \pi_c` an unbiased estimate of the sum over all classes (Cohen and Kaplan
    2007, Summarizing data using bottom-k sketches); for n far below the number of classes,
    :math:`\pi_c` is about :math:`n q_c`. With all classes drawn it is one, and the loss is the
    cross-entropy.

    Parameters
    ----------
    n_negatives : int
        Number n of classes that are drawn.
    proposal : Tensor of shape (n_classes,)
        q above: positive, and one in sum.
    """

    proposal: Tensor

    def __init__(self, n_negatives: int, proposal: Tensor):
        super().__init__()
        self.n_negatives = n_negatives
        self.register_buffer("proposal", proposal)
        self.begin_batch()

    def begin_batch(self) -> None:
        """Draw anew when the loss is next computed."""
        self._drawn: tuple[Tensor, Tensor] | None = None

    def forward(self, output: Deferred | Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for vectors in it, in float64.

        Parameters
        ----------
        output : Deferred, or Tensor of shape (n, n_classes)
            Vectors and a linear layer, or its logits: then the loss is the cross-entropy.
        targets : LongTensor of shape (n,)
            Class positions.
        weights : Tensor of shape (n,)
        """
        if not isinstance(output, Deferred):
            losses = F.cross_entropy(precise(output), targets, reduction="none")
            return (losses * weights).sum()
        if self._drawn is None:
            self._drawn = self._draw()
        classes, log_share = self._drawn
        vectors, out = precise(output.vectors), output.out
        weight = F.embedding(torch.cat([targets, classes]), out.weight).to(vectors.dtype)
        bias = vectors.new_zeros(len(out.weight)) if out.bias is None else out.bias
        bias = bias.to(vectors.dtype)
        own = (vectors * weight[: len(targets)]).sum(dim=1) + bias[targets]
        others = vectors @ weight[len(targets) :].T + (bias[classes] - log_share)
        others = others.masked_fill(classes == targets.unsqueeze(1), -torch.inf)
        total = torch.cat([own.unsqueeze(1), others], dim=1).logsumexp(dim=1)
        return ((total - own) * weights).sum()

    @torch.no_grad()
    def _draw(self) -> tuple[Tensor, Tensor]:
        """Classes, and the logarithm of the probability of each to be among them."""
        times = torch.empty_like(self.proposal).exponential_() / self.proposal
        if self.n_negatives >= len(times):
            return torch.arange(len(times), device=times.device), torch.zeros_like(times)
        smallest, classes = times.topk(self.n_negatives + 1, largest=False)
        classes = classes[:-1]
        return classes, (-torch.expm1(-self.proposal[classes] * smallest[-1])).log()


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
        logits = precise(logits)
        factor = None if self.pos_weight is None else self.pos_weight.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none", pos_weight=factor
        )
        return (losses.mean(dim=1) * weights).sum()


class SquaredError(nn.Module):
    r"""Weighted sum of :math:`(z - y)^2` over the rows, of several outputs the mean."""

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape ().

        Parameters
        ----------
        outputs : Tensor of shape (n, n_outputs)
        targets : Tensor of shape (n, n_outputs), or (n,) for one output
        weights : Tensor of shape (n,)
        """
        outputs = precise(outputs)
        targets = targets.to(outputs.dtype).reshape(outputs.shape)
        losses = F.mse_loss(outputs, targets, reduction="none").mean(dim=1)
        return (losses * weights).sum()


class Huber(nn.Module):
    r"""Weighted sum of Huber's loss of errors e over the rows (Huber 1964), averaged over outputs.

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
        outputs = precise(outputs)
        targets = targets.to(outputs.dtype).reshape(outputs.shape)
        losses = F.huber_loss(outputs, targets, reduction="none", delta=self.delta)
        return (losses.mean(dim=1) * weights).sum()


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


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """How many rows have their largest logit at the target, or at the largest soft target."""
    if targets.ndim == logits.ndim:
        targets = targets.argmax(dim=-1)
    return (logits.argmax(dim=-1) == targets).sum()


def count_predicted(logits: Tensor, targets: Tensor) -> Tensor:
    """How many rows have their largest logit at each class, of shape (n_classes,)."""
    found = logits.argmax(dim=-1)
    # Unlike bincount it does not make a GPU wait.
    return torch.zeros_like(logits[0], dtype=torch.long).index_add(0, found, torch.ones_like(found))


def share_of_right_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of the share of labels whose presence has the sign of its logit."""
    return ((logits > 0) == (targets > 0)).float().mean(dim=1).sum()


def count_correct_paths(output: CRFOutput, tags: Tensor) -> Tensor:
    """How many words have their tag in the best sequence of a CRF."""
    return (viterbi(output) == tags).sum()

"""Several heads on one backbone, and their losses together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sktransformers.modules.losses import CrossEntropy, SquaredError
from sktransformers.modules.model import SequenceConfig, SequenceModel, not_in_one_pass
from sktransformers.modules.pooling import Pooling, SegmentPooling


class MultiTaskConfig(SequenceConfig):
    """Configuration of `MultiTaskModel`.

    Parameters
    ----------
    task_sizes : sequence of int
        Outputs of each task: its classes, or one for a number.
    pairs : bool, default=False
        Whether a row is two texts in one sequence.
    **kwargs
        As in `SequenceConfig`.
    """

    model_type = "sktransformers-multitask"

    def __init__(self, task_sizes: Sequence[int] = (), pairs: bool = False, **kwargs: Any):
        self.task_sizes = list(task_sizes)
        self.pairs = pairs
        super().__init__(**kwargs)


class MultiTaskModel(SequenceModel):
    """One vector a text, and from it the outputs of every task, side by side.

    Hard parameter sharing (Caruana 1997): all tasks read the same vector, each with a head of its
    own.
    """

    config_class: Any = MultiTaskConfig

    def _add_parts(self, config: Any, width: int) -> None:
        self.pooling = Pooling(config.pooling, width)
        self.window_pooling = SegmentPooling(config.window_pooling, width)
        heads = (self._make_head(config, width, size) for size in config.task_sizes)
        self.head: Any = nn.ModuleList(heads)

    def logits(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Outputs of shape (n_rows, n_outputs), task after task."""
        read = self._row_vectors(vectors, sizes, rows)
        return torch.cat([head.out(head.hidden(read).mean(dim=1)) for head in self.head], dim=1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing but an error: a softmax over the outputs of all tasks would be none of theirs."""
        raise not_in_one_pass(f"A row has an answer to each of {len(self.head)} tasks")


class MultiTaskLoss(nn.Module):
    r"""Weighted sum of the losses of all entries that are there.

    .. math::

        \sum_t \lambda_t \sum_i w_{it} \ell_t(z_{it}, y_{it}),

    with :math:`\ell_t` the cross-entropy of a class or the squared error of a number, and
    :math:`w_{it}` zero where the entry of row i for task t is missing.

    Parameters
    ----------
    task_sizes : sequence of int
        As in `MultiTaskConfig`.
    factors : Tensor of shape (n_tasks,)
        :math:`\lambda` above.
    """

    factors: Tensor

    def __init__(self, task_sizes: Sequence[int], factors: Tensor):
        super().__init__()
        self.task_sizes = list(task_sizes)
        self.parts = nn.ModuleList(
            SquaredError() if size == 1 else CrossEntropy() for size in task_sizes
        )
        self.register_buffer("factors", factors)

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape ().

        Parameters
        ----------
        outputs : Tensor of shape (n, n_outputs)
        targets : Tensor of shape (n, n_tasks)
            Class positions or numbers, NaN where there is none.
        weights : Tensor of shape (n, n_tasks)
            w above.
        """
        known = targets.nan_to_num()  # what stands for a missing entry weighs nothing
        losses = [
            part(logits, target.long() if size > 1 else target, weight)
            for part, size, logits, target, weight in zip(
                self.parts,
                self.task_sizes,
                outputs.split(self.task_sizes, dim=1),
                known.unbind(1),
                weights.unbind(1),
            )
        ]
        return torch.stack(losses) @ self.factors.to(losses[0].dtype)


def task_metrics(
    task_sizes: Sequence[int], labels: Sequence[Any]
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """What the history has of each task: the sum over its entries, and how many there are."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    begin = 0
    for task, (size, label) in enumerate(zip(task_sizes, labels)):
        measure, name = (_errors, "squared_error") if size == 1 else (_right, "accuracy")
        found[f"{name}_{label}"] = partial(_over_entries, measure, task, slice(begin, begin + size))
        begin += size
    return found


def _over_entries(
    measure: Callable[[Tensor, Tensor], Tensor],
    task: int,
    places: slice,
    outputs: Tensor,
    targets: Tensor,
) -> Tensor:
    there = ~targets[:, task].isnan()
    values = measure(outputs[:, places], targets[:, task].nan_to_num())
    return torch.stack([torch.where(there, values, 0.0).sum(), there.sum().to(values.dtype)])


def _right(logits: Tensor, codes: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == codes.long()).float()


def _errors(outputs: Tensor, numbers: Tensor) -> Tensor:
    outputs = outputs[:, 0].float()
    return (outputs - numbers.to(outputs.dtype)) ** 2

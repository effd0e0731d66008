"""What a model consists of, and what of it was trained."""

import html
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from sktransformers.modules.backbone import parts


class PartSummary(NamedTuple):
    """A part of a model.

    Parameters
    ----------
    name : str
        Such as ``"embeddings"``, ``"block 6"`` or ``"head"``.
    n_parameters : int
        Numbers in its weights.
    n_trained : int
        How many of them the last ``fit`` trained.
    """

    name: str
    n_parameters: int
    n_trained: int


@dataclass(frozen=True)
class ModelSummary:
    """Parameters of a model, part by part from the input to the output.

    Parameters
    ----------
    parts : tuple of PartSummary
        Embeddings, blocks, what is above them, and what stands behind the backbone.
    n_blocks : int
        Blocks of the backbone.
    """

    parts: tuple[PartSummary, ...]
    n_blocks: int

    @property
    def n_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(part.n_parameters for part in self.parts)

    @property
    def n_trained(self) -> int:
        """Parameters that the last ``fit`` trained."""
        return sum(part.n_trained for part in self.parts)

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [(p.name, f"{p.n_parameters:,}", f"{p.n_trained:,}") for p in self.parts]
        return [*rows, ("total", f"{self.n_parameters:,}", f"{self.n_trained:,}")]

    def __str__(self) -> str:
        rows = [("part", "parameters", "trained"), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{name:<{widths[0]}}  {total:>{widths[1]}}  {trained:>{widths[2]}}"
            for name, total, trained in rows
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{total}</td><td>{trained}</td></tr>"
            for name, total, trained in self._rows()
        )
        head = "<tr><th>part</th><th>parameters</th><th>trained</th></tr>"
        return f"<table>{head}{rows}</table>"


def summarise(model: Any, trained: Collection[str]) -> ModelSummary:
    """Count the parameters of one of our models.

    Parameters
    ----------
    model : PreTrainedModel
        With a ``backbone``.
    trained : collection of str
        Names of the parameters that were trained.
    """
    found = parts(model.backbone)
    groups: dict[str, set[nn.Parameter]] = {"embeddings": set(found.below.values())}
    for i, block in enumerate(found.blocks):
        groups[f"block {i + 1}"] = set(block.parameters())
    groups["above the blocks"] = set(found.above.values())
    group_of = {id(p): name for name, group in groups.items() for p in group}
    counts: dict[str, list[int]] = {name: [0, 0] for name in groups}
    for name, parameter in model.named_parameters():
        # What stands behind the backbone goes by its own name: pooling, head, crf.
        group = group_of.get(id(parameter)) or _part(name)
        count = counts.setdefault(group, [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() * (name in trained)
    rows = tuple(PartSummary(name, *count) for name, count in counts.items() if count[0])
    return ModelSummary(rows, len(found.blocks))


def _part(name: str) -> str:
    first = name.partition(".")[0]
    return "head" if first == "native" else first

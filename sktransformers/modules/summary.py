"""What a model consists of, and what of it was trained."""

import html
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from sktransformers.modules.backbone import parts, vector_size

_WITH_VOCABULARY_HEAD = (AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM)


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


class DroppedHead(NamedTuple):
    """The layer of a language model that gave the logits of its vocabulary.

    Parameters
    ----------
    n_tokens : int
        Its outputs.
    width : int
        What it read of each token.
    is_tied : bool
        Whether its weights are those of the embeddings, which stay.
    """

    n_tokens: int
    width: int
    is_tied: bool

    @property
    def n_parameters(self) -> int:
        """Numbers in its weights."""
        return self.n_tokens * self.width

    def __str__(self) -> str:
        tied = ", those of the embeddings" if self.is_tied else ""
        return (
            f"dropped: vocabulary head, {self.width} x {self.n_tokens:,} = "
            f"{self.n_parameters:,} parameters{tied}"
        )


@dataclass(frozen=True)
class ModelSummary:
    """Parameters of a model, part by part from the input to the output.

    Parameters
    ----------
    parts : tuple of PartSummary
        Embeddings, blocks, what is above them, and what stands behind the backbone.
    n_blocks : int
        Blocks of the backbone.
    dropped_head : DroppedHead or None
        The vocabulary head that the backbone had as a language model.
    """

    parts: tuple[PartSummary, ...]
    n_blocks: int
    dropped_head: DroppedHead | None = None

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
        lines = [
            f"{name:<{widths[0]}}  {total:>{widths[1]}}  {trained:>{widths[2]}}"
            for name, total, trained in rows
        ]
        return "\n".join([*lines, *map(str, filter(None, [self.dropped_head]))])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{total}</td><td>{trained}</td></tr>"
            for name, total, trained in self._rows()
        )
        head = "<tr><th>part</th><th>parameters</th><th>trained</th></tr>"
        caption = "" if self.dropped_head is None else f"<caption>{self.dropped_head}</caption>"
        return f"<table>{caption}{head}{rows}</table>"


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
    return ModelSummary(rows, len(found.blocks), _dropped_head(model.backbone))


def _dropped_head(backbone: Any) -> DroppedHead | None:
    """The vocabulary head of the model that a backbone was taken from, if that had one."""
    config = backbone.config
    origin = (config.architectures or [""])[0]
    known = [auto._model_mapping.get(type(config), None) for auto in _WITH_VOCABULARY_HEAD]
    is_language_model = origin in [getattr(kind, "__name__", None) for kind in known]
    n_tokens = getattr(config.get_text_config(), "vocab_size", None)
    if not is_language_model or origin == type(backbone).__name__ or n_tokens is None:
        return None
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    width = getattr(config, "embedding_size", None) or vector_size(config)
    if is_tied:
        n_tokens, width = backbone.get_input_embeddings().weight.shape
    return DroppedHead(n_tokens, width, is_tied)


def _part(name: str) -> str:
    first = name.partition(".")[0]
    return "head" if first == "native" else first

"""y of models that answer in text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sktransformers.inputs.targets import Targets
from sktransformers.inputs.validation import as_texts


@dataclass(frozen=True)
class TextCoding:
    """Targets are texts as they are."""

    names: ClassVar[list[str]] = []
    problem_type: ClassVar[None] = None
    attributes: ClassVar[dict[str, Any]] = {}

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str = "y") -> Targets:
        """Texts, which become token ids once there is a tokenizer."""
        return Targets(y, weights.astype(np.float64), np.zeros(len(y), np.int64))


def check_answers(y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
    """Targets as an array of str, one for each of the rows of X.

    Raises
    ------
    TypeError, ValueError
        If y is no container of texts, has another length than X, or holds an empty text.
    """
    if y is None:
        raise ValueError(f"{name} is None: expected a text for each row of X.")
    texts = as_texts(y, name)
    if len(texts) != len(rows):
        raise ValueError(f"{name} has {len(texts)} texts, but X has {len(rows)} rows.")
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(
            f"{name}[{empty[0]}] is an empty text ({len(empty)} of {len(texts)} are): a model "
            f"learns nothing from it; leave out such rows."
        )
    return np.array(texts, dtype=object)

"""Texts in, texts out."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from sktransformers.answering import AnsweringEstimator
from sktransformers.inputs.answers import TextCoding, check_answers
from sktransformers.inputs.validation import as_texts


class Text2TextGenerator(AnsweringEstimator):
    """Fine-tune a language model that answers a text with a text."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **AnsweringEstimator._parameter_constraints,
        "template": [str],
    }

    def __init__(
        self,
        backbone="google/flan-t5-small",
        *,
        template="{text}",
        loss="auto",
        finetune="full",
        lr=None,
        max_epochs=3,
        batch_size=16,
        optimizer="adamw",
        schedule="linear",
        warmup=0.1,
        weight_decay=0.01,
        anchor=0.0,
        max_length=None,
        max_target_length=64,
        max_batch_tokens=4096,
        augment=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=2,
        tol=1e-4,
        scoring="loss",
        warm_start=False,
        replay=None,
        memory=None,
        callbacks=None,
        device="auto",
        precision="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.template = template
        self.loss = loss
        self.finetune = finetune
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.anchor = anchor
        self.max_length = max_length
        self.max_target_length = max_target_length
        self.max_batch_tokens = max_batch_tokens
        self.augment = augment
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.scoring = scoring
        self.warm_start = warm_start
        self.replay = replay
        self.memory = memory
        self.callbacks = callbacks
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def _check_X(self, X: Any, name: str = "X") -> Sequence[str]:
        return as_texts(X, name)

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_answers(y, rows, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> TextCoding:
        return TextCoding()

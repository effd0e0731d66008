"""What the estimators that answer in text share: a language model, sources, targets."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.course import Options
from sktransformers.estimator import TransformerEstimator
from sktransformers.inputs.batching import Encoded, Ragged
from sktransformers.inputs.encoding import private_tokenizer
from sktransformers.inputs.prompts import SourceEncoder, TargetEncoder, with_targets
from sktransformers.inputs.targets import Targets
from sktransformers.modules import losses
from sktransformers.modules.backbone import position_limit
from sktransformers.modules.decoding import check_length
from sktransformers.modules.language import LanguageConfig, LanguageModel
from sktransformers.specs import CrossEntropy
from sktransformers.training import loading
from sktransformers.training.answering import AnsweringNet

_NOT_HERE = ("head", "head_init", "long_text")  # parameters of models with a head


class AnsweringEstimator(TransformerEstimator):
    """Fit of models whose targets are texts.

    Parameters ``template``, ``max_target_length`` and ``loss`` are read.
    """

    template: Any
    max_target_length: Any
    loss: Any

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in TransformerEstimator._parameter_constraints.items()
            if name not in _NOT_HERE
        },
        "max_target_length": [Interval(Integral, 2, None, closed="left")],
        "loss": [StrOptions({"auto", "cross_entropy"}), CrossEntropy],
    }
    _net = AnsweringNet
    _keeps_frozen = False
    head = None
    head_init = "random"
    long_text = "truncate"

    def _check_options(self) -> Options:
        name = type(self).__name__
        if self.finetune == "head":
            raise ValueError(
                f'finetune="head" and {name} contradict each other: the layer that gives words '
                f"was pretrained with the model, and often is its table of embeddings, so that "
                f"there is no head to train alone. Take finetune=1 for the top block, LoRA() or "
                f"BitFit()."
            )
        if self._loss().classes is not None:
            raise ValueError(
                f"loss={self.loss!r} and {name} contradict each other: classes are for soft "
                f"targets of classifiers, and targets are texts here."
            )
        return super()._check_options()

    def _head(self) -> None:
        """The layer of the vocabulary is part of the backbone."""

    def _loss(self) -> CrossEntropy:
        return CrossEntropy() if isinstance(self.loss, str) else self.loss

    def _build(self, options: Options, coding: Any) -> dict[str, Any]:
        loaded = loading.load_language(options.backbone, verbose=bool(self.verbose))
        model = LanguageModel(LanguageConfig(backbone_config=loaded.native.config), loaded.native)
        return {
            "model_": model,
            "tokenizer_": private_tokenizer(loaded.tokenizer),
            "max_length_": self._resolve_max_length(loaded),
        }

    def _resolve_max_length(self, loaded: loading.Loaded) -> int:
        length = super()._resolve_max_length(loaded)
        limit, n_new = position_limit(loaded.native), self._most_new_tokens()
        if self.max_length is None and limit is not None:
            if not loaded.native.config.is_encoder_decoder:  # which numbers both in one go
                length = min(length, max(1, limit - n_new))
        check_length(loaded.native, length, n_new)
        return length

    def _most_new_tokens(self) -> int:
        """Most tokens of a target or an answer."""
        return int(self.max_target_length)

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> SourceEncoder:
        return SourceEncoder(tokenizer, max_length, self.template, model.reads_source_first)

    def _with_answers(
        self, encoded: Encoded, targets: Targets, fitted: dict[str, Any]
    ) -> tuple[Encoded, Targets]:
        ids, weights = targets.values, targets.weights
        if not isinstance(ids, Ragged):  # once: rows that are drawn anew keep their targets
            encoder = TargetEncoder(
                fitted["tokenizer_"], self.max_target_length, fitted["model_"].reads_source_first
            )
            ids, n_cut = encoder.read(targets.values.tolist())
            encoder.warn(n_cut, len(ids))
            fitted.setdefault("truncated_", n_cut)  # of the training rows: they come first
            ids = Ragged(ids.flat.astype(np.int64), ids.start)  # as a loss wants them
            weights = Ragged(np.repeat(weights, ids.lengths), ids.start)
        return with_targets(encoded, ids), Targets(ids, weights, targets.strata)

    def _objective(
        self, model: Any, loss: Any, coding: Any
    ) -> tuple[torch.nn.Module, dict[str, Callable[..., Any]]]:
        return losses.CrossEntropy(loss.label_smoothing), {"accuracy": losses.count_correct}

    def accelerate(self, backend="int8"):
        """Not for models that answer in text: an answer takes many steps.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(_for_heads("accelerate", type(self).__name__))

    def export_onnx(self, path):
        """Not for models that answer in text: an answer takes many steps.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(_for_heads("export_onnx", type(self).__name__))


def _for_heads(what: str, name: str) -> str:
    return (
        f"{what} is for models with a head, which give the logits of a row in one step; {name} has "
        f"a language model, which writes token by token."
    )

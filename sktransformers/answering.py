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
        "max_target_length": [Interval(Integral, 1, None, closed="left")],
        "loss": [StrOptions({"auto", "cross_entropy"}), CrossEntropy],
    }
    _net = AnsweringNet
    _keeps_frozen = False
    head = None
    head_init = "random"
    long_text = "truncate"

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
            ids = encoder.encode(targets.values.tolist())
            ids = Ragged(ids.flat.astype(np.int64), ids.start)  # as a loss wants them
            weights = Ragged(np.repeat(weights, ids.lengths), ids.start)
        return with_targets(encoded, ids), Targets(ids, weights, targets.strata)

    def _objective(
        self, model: Any, loss: Any, coding: Any
    ) -> tuple[torch.nn.Module, dict[str, Callable[..., Any]]]:
        return losses.CrossEntropy(loss.label_smoothing), {"accuracy": losses.count_correct}

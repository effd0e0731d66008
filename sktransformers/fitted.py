"""What a fitted estimator does: rows to logits, pickles, tables of features."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.encoding import Counts
from sktransformers.modules.summary import ModelSummary
from sktransformers.training import runtime

_PREDICT_CHUNK = 4096  # rows that are tokenized and sorted together


class FittedTransformer(BaseEstimator):
    """An estimator as far as it does not train: ``model_`` and ``tokenizer_`` are there, or not.

    Parameters ``device``, ``precision``, ``max_batch_tokens`` and ``replay`` are read.
    """

    device: Any
    precision: Any
    max_batch_tokens: Any
    replay: Any

    def summary(self) -> ModelSummary:
        """Parameters of the fitted model, part by part, and what of them ``fit`` trained.

        Returns
        -------
        summary : ModelSummary
            Prints as a table; ``n_blocks``, ``n_parameters``, ``n_trained`` and ``parts`` hold
            the numbers. They are attributes of the fitted estimator too.

        Examples
        --------
        >>> clf.fit(X, y).summary()  # doctest: +SKIP
        """
        check_is_fitted(self)
        return self._summary

    def _outputs(self, X: Any) -> np.ndarray:
        """Logits of shape (n_samples, n_outputs) in float64."""
        return self._decide(self._fitted_rows(X))

    def _fitted_rows(self, X: Any) -> Sequence[Any]:
        """Rows of X for a fitted estimator."""
        check_is_fitted(self)
        rows = self._check_X(X)
        self._check_features(X)
        return rows

    def _decide(
        self, rows: Sequence[Any], decide: Callable[..., Any] | None = None, width: int = 0
    ) -> np.ndarray:
        """Logits of rows, encoded a chunk at a time.

        Or what another last stage than the model's own gives, so many numbers a row.
        """
        model = self.model_
        decide = decide or model.decide
        encoder = self._make_encoder(model, self.tokenizer_, self.max_length_)
        predictor = self._predictor(model, encoder.pad_id)
        outputs = np.empty((len(rows), width or model.config.num_labels))
        counts = []
        for part in chunks(len(rows)):
            encoded, counted = encoder.encode(rows[part])
            counts.append(counted)
            outputs[part] = predictor.rows(model.encode, decide, encoded, model.unit)
        Counts.total(counts).warn(self.max_length_)
        return outputs

    def _predictor(self, model: Any, pad_id: int, training: bool = False) -> Predictor:
        precision = runtime.resolve_precision(self.precision, model.device, training)
        return Predictor(model.device, pad_id, self.max_batch_tokens, precision)

    # ---------------------------------------------------------------- state

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def __copy__(self):
        # Through __getstate__ a shallow copy would copy the weights.
        new = type(self).__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def __deepcopy__(self, memo):
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = self.__getstate__()
        if hasattr(self, "_reservoir"):  # left out of pickles, but this is none
            state["_reservoir"] = self._reservoir
        new.__setstate__(copy.deepcopy(state, memo))
        return new

    def __getstate__(self):
        # The net would triple the size, and its closures cannot be pickled.
        state = {k: v for k, v in super().__getstate__().items() if k != "net_"}
        if not getattr(self.replay, "pickle", False):  # the user's rows
            state.pop("_reservoir", None)
        if "model_" in state and state["model_"].device.type != "cpu":
            state["model_"] = _cpu_copy(state["model_"])
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state:
            try:
                self.model_.to(runtime.resolve_device(self.device))
            except ValueError as error:
                warnings.warn(f"{error} The model stays on the CPU.", stacklevel=2)

    def _set_features(self, X: Any) -> None:
        """``n_features_in_`` and ``feature_names_in_`` where X is a table."""
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        self._check_features(X, reset=True)

    def _check_features(self, X: Any, reset: bool = False) -> None:
        """Compare the columns of a table with those of training, or take them over."""
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True, reset=reset)

    # ---------------------------------------------------- what a task fills in

    def _check_X(self, X: Any, name: str = "X") -> Sequence[Any]:
        """Rows of X in the form that the encoder reads, or a clear error."""
        raise NotImplementedError

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> Any:
        """What turns rows into token ids."""
        raise NotImplementedError


def chunks(n_rows: int) -> Iterator[slice]:
    """Cut rows into chunks that are encoded together."""
    for begin in range(0, n_rows, _PREDICT_CHUNK):
        yield slice(begin, begin + _PREDICT_CHUNK)


def _cpu_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU that never holds a second one on the device."""
    tensors = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {}
    for tensor in tensors:
        there = tensor.detach().cpu()
        if isinstance(tensor, torch.nn.Parameter):
            there = torch.nn.Parameter(there, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = there
    return copy.deepcopy(model, memo).to("cpu")  # in training the vocabulary is not in the memo

"""What a fitted estimator does: rows to logits, pickles, tables of features."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from sktransformers.concurrency import DRAWING, of_one_fit
from sktransformers.inference import export
from sktransformers.inference.accelerate import BACKENDS, Engine
from sktransformers.inference.graph import InputFormat
from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Budget, Encoded
from sktransformers.inputs.encoding import Counts
from sktransformers.modules.backbone import hidden_size
from sktransformers.modules.dispatch import check_in_one_place
from sktransformers.modules.summary import ModelSummary
from sktransformers.saved import SavedTransformer
from sktransformers.searching import send_unfitted
from sktransformers.specs import as_cache
from sktransformers.training import runtime
from sktransformers.training.frozen import Frozen

_PREDICT_CHUNK = 4096  # rows that are tokenized and sorted together
_FEW = 64  # rows that are sooner computed than looked for in a folder
# Numbers of a layer's output that a CPU's caches hold in fp32, with the four times as many of the
# feed-forward part: 1,024 to 2,048 slots of width 384 at once are a sixth faster than 4,096.
_CACHED = 1536 * 384
_TRANSIENT = ("net_", "_frozen", "_engine")  # left out of pickles


class FittedTransformer(SavedTransformer):
    """An estimator as far as it does not train: ``model_`` and ``tokenizer_`` are there, or not.

    Parameters ``device``, ``finetune``, ``precision``, ``max_batch_tokens``, ``memory`` and
    ``replay`` are read.
    """

    device: Any
    finetune: Any
    memory: Any
    precision: Any
    max_batch_tokens: Any
    replay: Any
    _frozen: Frozen | None = None  # in training only
    _engine: Engine | None = None  # after accelerate
    _held_out: dict[str, int] | None = None  # validation rows of the last training

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

    @of_one_fit
    def accelerate(self, backend="int8"):
        """A fitted estimator that predicts the same, or nearly, and faster.

        This one stays as it is, and both share their weights. Pickles hold the weights as they
        were trained, and what is faster is made again on load; ``fit`` and ``partial_fit`` give an
        ordinary estimator again.

        Parameters
        ----------
        backend : {"int8", "onnx", "onnx-int8", "compile"}, default="int8"
            What runs the backbone, or with ``head="native"`` the family's whole model.

            - ``"int8"``: linear layers in integers of eight bits, by torchao, compiled. Takes up
              to a minute, and a C++ compiler.
            - ``"onnx"``, ``"onnx-int8"``: ONNX Runtime, in float32 and in integers of eight
              bits.
            - ``"compile"``: ``torch.compile``, in the ``precision`` of the estimator. Takes a C++
              compiler.

            All but the last are for the CPU and for ``precision`` ``"auto"`` or ``"fp32"``. The
            number of threads is that of torch at the time.

        Returns
        -------
        estimator : object
            Of the same class, with an attribute ``backend_`` of type str.

        Raises
        ------
        ImportError
            If a library is missing that the extras ``int8`` or ``onnx`` bring.
        ValueError
            If backend is not one of these, does not go with ``precision`` or with where the model
            is, cannot run the backbone, or gives other vectors of some tokens: their relative
            error must be at most 1e-4 in float32 and 0.25 in integers.

        Examples
        --------
        >>> fast = clf.fit(X, y).accelerate("onnx-int8")  # doctest: +SKIP
        >>> fast.predict(X)  # doctest: +SKIP
        """
        check_is_fitted(self)
        if backend not in BACKENDS:
            raise ValueError(
                f"backend={backend!r} must be one of {', '.join(map(repr, BACKENDS))}."
            )
        check_in_one_place(self.model_, "accelerate()")
        new = copy.copy(self)
        new._engine = new._make_engine(backend)
        new.backend_ = backend
        return new

    @of_one_fit
    def export_onnx(self, path):
        """Write a directory that predicts with ONNX Runtime, without torch and this package.

        It holds ``model.onnx`` (``input_ids``, ``attention_mask`` and for some pairs
        ``token_type_ids`` to logits), ``tokenizer.json``, ``labels.json`` (what the logits mean)
        and ``predict.py``, a short example that needs onnxruntime, tokenizers and NumPy. Its
        logits are those of this estimator within 1e-4; longer texts are cut at ``max_length_``.

        Parameters
        ----------
        path : str or path-like
            The directory. It must not exist, or be empty; it appears when all is written.

        Raises
        ------
        FileExistsError
            If there is something at path.
        ImportError
            If a library is missing that the extra ``onnx`` brings.
        ValueError
            If predictions take more than one sequence a row and a table of logits: bi-encoders,
            both orders of a pair, windows, a CRF, several tasks. Or if the tokenizer has no
            ``tokenizer.json``, or the backbone cannot be exported.
        """
        check_is_fitted(self)
        check_in_one_place(self.model_, "export_onnx()")
        encoder = self._make_encoder(self.model_, self.tokenizer_, self.max_length_)
        meaning = {**self._exported_rows(), **self._exported_outputs()}
        export.write_directory(
            path, self.model_, self.tokenizer_, encoder, self._input_format(encoder), meaning
        )

    @DRAWING  # exporters and compilers change what belongs to the process
    def _make_engine(self, backend: str) -> Engine:
        model = self.model_
        if backend != "compile" and self.precision in ("bf16", "fp16"):
            raise ValueError(
                f"backend={backend!r} and precision={self.precision!r} contradict each other: take "
                f'backend="compile", or set_params(precision="auto").'
            )
        encoder = self._make_encoder(model, self.tokenizer_, self.max_length_)
        precision = runtime.resolve_precision(self.precision, model.device)
        return Engine.of(model, backend, self._input_format(encoder), precision)

    def _input_format(self, encoder: Any) -> InputFormat:
        return InputFormat(
            encoder.pad_id, self.max_length_, bool(getattr(encoder, "token_types", False))
        )

    @property
    def _running(self) -> Any:
        """What predicts: the model, or a faster one in its place."""
        if self._engine is None or self._has_others_engine:
            return self.model_
        return self._engine.running()

    @property
    def _has_others_engine(self) -> bool:
        """Whether it was made from another model: a view in training has a new one."""
        return self._engine is not None and self._engine.model is not self.model_

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
        model = self._running
        decide = decide or model.decide
        encoder = self._make_encoder(self.model_, self.tokenizer_, self.max_length_)
        predictor = self._predictor(self.model_, encoder.pad_id)
        outputs = np.empty((len(rows), width or model.config.num_labels))
        counts = []
        with self._recalling(predictor) as quicker:
            for part in chunks(len(rows)):
                encoded, counted = encoder.encode(rows[part])
                counts.append(counted)
                found = quicker(encoded).rows(model.encode, decide, encoded, model.unit)
                outputs[part] = found
        Counts.total(counts).warn(self.max_length_)
        return outputs

    @contextmanager
    def _recalling(self, predictor: Predictor) -> Iterator[Callable[[Encoded], Predictor]]:
        """A predictor of rows that reads in the folder ``memory`` what a frozen backbone gave."""
        cache = as_cache(self.memory)
        plain = self._frozen is None and self._engine is None  # else it is known, or others'
        if not plain or self.finetune != "head" or not cache._folder():
            yield lambda encoded: predictor
            return
        with Frozen(cache, verbose=False) as frozen:

            def quicker(encoded: Encoded) -> Predictor:
                if len(encoded) < _FEW:
                    return predictor
                frozen.recall(self.model_, encoded, predictor)
                return predictor._replace(feed=frozen.feed)

            yield quicker

    def _predictor(self, model: Any, pad_id: int, training: bool = False) -> Predictor:
        precision = runtime.resolve_precision(self.precision, model.device, training)
        slots = self.max_batch_tokens
        if model.device.type == "cpu" and precision is None:
            slots = min(slots, max(1, _CACHED // hidden_size(model.backbone.config)))
        predictor = Predictor(model.device, pad_id, Budget(slots), precision)
        if self._frozen is not None and self._frozen.autocast_dtype == precision:
            return predictor._replace(feed=self._frozen.feed)
        return predictor

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
        self = copy.copy(self)  # as `of_one_fit` does
        state = self.__getstate__()
        backend = state.pop("backend_", None)  # or it would all be made again
        if hasattr(self, "_reservoir"):  # left out of pickles, but this is none
            state["_reservoir"] = self._reservoir
        new.__setstate__(copy.deepcopy(state, memo))
        if backend is not None:
            new.backend_ = backend
            if self._engine is not None:
                new._engine = self._engine._replace(model=new.model_)
        return new

    @of_one_fit
    def __getstate__(self):
        # The net would triple the size, and its closures cannot be pickled.
        state = {k: v for k, v in super().__getstate__().items() if k not in _TRANSIENT}
        if self._has_others_engine:
            state.pop("backend_", None)
        if not getattr(self.replay, "pickle", False):  # the user's rows
            state.pop("_reservoir", None)
        if "model_" in state:
            check_in_one_place(state["model_"], "A pickle")
        if "model_" in state and state["model_"].device.type != "cpu":
            state["model_"] = _cpu_copy(state["model_"])
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state:
            self._place()
        if "backend_" in state:
            try:
                self._engine = self._make_engine(self.backend_)
            except (ImportError, ValueError) as error:
                warnings.warn(f"{error} Predictions are not accelerated.", stacklevel=2)

    def _set_features(self, X: Any) -> None:
        """``n_features_in_`` and ``feature_names_in_`` where X is a table."""
        new = copy.copy(self)
        for name in ("n_features_in_", "feature_names_in_"):
            new.__dict__.pop(name, None)
        new._check_features(X, reset=True)
        self.__dict__ = new.__dict__

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

    def _exported_rows(self) -> dict[str, Any]:
        """What ``labels.json`` of an export says of rows, or an error if they take too much."""
        raise ValueError(f"export_onnx does not support {type(self).__name__}.")

    def _exported_outputs(self) -> dict[str, Any]:
        """What ``labels.json`` of an export says of outputs."""
        raise NotImplementedError


send_unfitted(FittedTransformer)


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

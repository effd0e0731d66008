"""What the logits of a row become: a label or a number."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.inputs.targets import (
    ClassCoding,
    Indicator,
    IndicatorCoding,
    NumberCoding,
    SoftCoding,
    check_classes,
    check_indicator,
    check_labels,
    check_numbers,
    check_soft,
    class_coding,
    find_classes,
    indicator_coding,
    n_columns,
    soft_coding,
)
from sktransformers.modules import losses
from sktransformers.specs import (
    CLASS_LOSSES,
    NUMBER_LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    FocalLoss,
    HuberLoss,
    named,
)
from sktransformers.training.probe import binary_probe, logistic_probe, ridge_probe, soft_probe


class _OneLabel:
    """What logits say where a row has one of the labels: softmax."""

    @staticmethod
    def decision(logits: np.ndarray) -> np.ndarray:
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    @staticmethod
    def proba(logits: np.ndarray) -> np.ndarray:
        # In place: beyond the result, memory must not grow with the number of texts.
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    @staticmethod
    def log_proba(logits: np.ndarray) -> np.ndarray:
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    @staticmethod
    def labels(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return classes[logits.argmax(axis=1)]


class _AnyLabels:
    """What logits say where a row has any number of the labels: a sigmoid each."""

    @staticmethod
    def decision(logits: np.ndarray) -> np.ndarray:
        return logits

    @staticmethod
    def proba(logits: np.ndarray) -> np.ndarray:
        return expit(logits, out=logits)

    @staticmethod
    def log_proba(logits: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0.0, -logits)

    @staticmethod
    def labels(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return (logits > 0).astype(np.int64)


class LabelOutputs(ClassifierMixin):
    """One label a row by softmax, or any number of labels by a sigmoid each."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "threshold": [Interval(Real, 0, 1, closed="neither"), "array-like", StrOptions({"tuned"})],
        "loss": [StrOptions({"auto", *CLASS_LOSSES}), *CLASS_LOSSES.values()],
    }

    def decision_function(self, X):
        """Logits of each row.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes the logit of ``classes_[1]`` less that of ``classes_[0]``, if
            each row has one of them.
        """
        logits = self._outputs(X)
        return self._link.decision(logits)

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        proba : ndarray of float64 and shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to one, unless each row may have
            several labels.
        """
        logits = self._outputs(X)
        return self._link.proba(logits)

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        log_proba : ndarray of float64 and shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        logits = self._outputs(X)
        return self._link.log_proba(logits)

    def predict(self, X):
        """Most probable class of each row, or its labels.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_samples,) or (n_samples, n_labels)
            In the type that the labels had in ``fit``; for several labels a row a matrix of
            int, 1 where a label has a probability of more than one half.
        """
        logits = self._outputs(X)  # first: it says whether this is fitted
        return self._link.labels(logits, self.classes_)

    def score(self, X, y, sample_weight=None):
        """Accuracy: the share of rows whose label, or all of whose labels, are predicted.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, or an indicator matrix. Of soft targets, a matrix of probabilities, the
            most probable class counts.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
        """
        return super().score(X, self._scored_y(y), sample_weight)

    @property
    def _link(self) -> Any:
        return _AnyLabels if _any_labels(self) else _OneLabel

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        loss, columns = self._loss(), n_columns(y)
        if _is_soft(loss):
            classes = check_classes(loss.classes)
            return check_soft(y, len(rows), classes, type(self).__name__, name)
        binary = isinstance(loss, BinaryCrossEntropy)
        if columns is not None and (columns != 1 or binary or hasattr(y, "toarray")):
            indicator = check_indicator(y, len(rows), name)
            if not binary and self.loss != "auto":
                raise ValueError(
                    f"loss={self.loss!r} is for one label a row, but {name} is an indicator "
                    f"matrix; its loss is BinaryCrossEntropy. If its rows are probabilities, "
                    f"pass loss=CrossEntropy(classes=[...])."
                )
            return indicator
        labels = check_labels(y, len(rows), type(self).__name__, name)
        if binary:
            raise ValueError(
                f"loss={self.loss!r} is for an indicator matrix of shape (n_samples, n_labels), "
                f"but {name} holds one label a row."
            )
        return labels

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> Any:
        loss = self._loss()
        coding: ClassCoding | IndicatorCoding
        if isinstance(y, Indicator):
            if self.class_weight is not None:
                raise ValueError(
                    f"class_weight={self.class_weight!r} is for one label a row, but y is an "
                    f"indicator matrix; weigh labels with "
                    f"loss=BinaryCrossEntropy(pos_weight=...)."
                )
            classes = np.arange(y.shape[1]) if y.names is None else y.names
            if earlier is not None and len(earlier.classes_) == len(classes):
                classes = earlier.classes_
            coding = indicator_coding(classes, getattr(loss, "pos_weight", None), y, weights)
        elif _is_soft(loss):
            given = check_classes(loss.classes)
            coding = soft_coding(given, self.class_weight, y, weights)
        else:
            classes = find_classes(y) if earlier is None else earlier.classes_
            coding = class_coding(classes, self.class_weight, y, weights)
        if earlier is not None:
            several = isinstance(coding, IndicatorCoding)
            known, found = earlier.classes_.tolist(), coding.classes.tolist()
            if several != _any_labels(earlier) or known != found:
                raise ValueError(
                    f"warm_start=True goes on from a model of "
                    f"{'any number of' if _any_labels(earlier) else 'one of'} the labels {known} "
                    f"a row, but y has {'any number of' if several else 'one of'} {found}."
                )
        return coding

    def _scored_y(self, y: Any) -> Any:
        loss = self._loss()
        if not _is_soft(loss) or n_columns(y) is None:
            return y
        given, n_rows = check_classes(loss.classes), y.shape[0] if hasattr(y, "shape") else len(y)
        proba = check_soft(y, n_rows, given, type(self).__name__)
        order = np.argsort(given)
        return given[order][proba[:, order].argmax(axis=1)]

    def _checkpoint_coding(
        self, names: list[str], problem_type: str | None, name: str
    ) -> ClassCoding | IndicatorCoding:
        if len(names) < 2 or problem_type == "regression":
            raise ValueError(
                f"{name} is a checkpoint for regression ({len(names)} output, a number): a "
                f"regressor such as PairRegressor can read it, {type(self).__name__} cannot."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"{name} gives several of its outputs the same name: {names}.")
        if problem_type == IndicatorCoding.problem_type:
            return IndicatorCoding(np.array(names), None)
        return ClassCoding(np.array(sorted(names)), np.ones(len(names)))

    def _loss(self) -> Any:
        if isinstance(self.loss, str) and self.loss == "auto":
            return CrossEntropy()
        return named(self.loss, CLASS_LOSSES)

    def _objective(self, model: Any, loss: Any, coding: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(coding, IndicatorCoding):
            factors = _tensor(coding.pos_weight)
            accuracy = {"accuracy": losses.share_of_right_labels}
            return losses.BinaryCrossEntropy(factors), accuracy
        accuracy = {"accuracy": losses.count_correct}
        if isinstance(loss, FocalLoss):
            return losses.Focal(float(loss.gamma)), accuracy
        factors = _tensor(coding.factors if isinstance(coding, SoftCoding) else None)
        return losses.CrossEntropy(float(loss.label_smoothing), factors), accuracy

    def _fit_probe(
        self,
        vectors: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        coding: ClassCoding | IndicatorCoding,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(coding, IndicatorCoding):
            return binary_probe(vectors, values, weights, coding.pos_weight, rng)
        if isinstance(coding, SoftCoding):
            return soft_probe(vectors, coding.weighted(values), weights, rng)
        return logistic_probe(vectors, values, weights, len(coding.classes), rng)


def _tensor(factors: np.ndarray | None) -> torch.Tensor | None:
    """Factors in float32: some devices know no float64."""
    return None if factors is None else torch.from_numpy(factors).float()


def _any_labels(estimator: Any) -> bool:
    """Whether a fitted estimator gives any number of labels a row."""
    return estimator.model_.config.problem_type == IndicatorCoding.problem_type


def _is_soft(loss: Any) -> bool:
    """Whether y is a matrix of probabilities."""
    return isinstance(loss, CrossEntropy) and loss.classes is not None


class NumberOutputs(RegressorMixin):
    """One number a row; the model sees standardised numbers."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "loss": [StrOptions(set(NUMBER_LOSSES)), *NUMBER_LOSSES.values()],
    }

    def predict(self, X):
        """Number of each row.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        numbers : ndarray of float64 and shape (n_samples,)
            In the unit of ``y`` in ``fit``.
        """
        outputs = self._outputs(X)[:, 0]  # first: it says whether this is fitted
        return outputs * self.target_scale_ + self.target_mean_

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_numbers(y, len(rows), type(self).__name__, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> NumberCoding:
        if earlier is None:
            return NumberCoding.of(y, weights)
        return NumberCoding(earlier.target_mean_, earlier.target_scale_)

    def _checkpoint_coding(
        self, names: list[str], problem_type: str | None, name: str
    ) -> NumberCoding:
        if len(names) > 1:
            raise ValueError(
                f"{name} has {len(names)} outputs ({', '.join(names[:5])}): a classifier can read "
                f"it, {type(self).__name__} gives one number a row."
            )
        return NumberCoding(0.0, 1.0)

    def _loss(self) -> Any:
        return named(self.loss, NUMBER_LOSSES)

    def _objective(self, model: Any, loss: Any, coding: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(loss, HuberLoss):
            return losses.Huber(float(loss.delta)), {}
        return losses.SquaredError(), {}

    def _fit_probe(
        self,
        vectors: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        coding: NumberCoding,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        return ridge_probe(vectors, values, weights, rng)

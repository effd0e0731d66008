"""What the logits of a row become: a label or a number."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import StrOptions

from sktransformers.inputs.targets import (
    ClassCoding,
    NumberCoding,
    check_labels,
    check_numbers,
    class_coding,
    find_classes,
)
from sktransformers.modules import losses
from sktransformers.specs import (
    CLASS_LOSSES,
    NUMBER_LOSSES,
    CrossEntropy,
    HuberLoss,
    named,
)
from sktransformers.training.probe import logistic_probe, ridge_probe


class LabelOutputs(ClassifierMixin):
    """One label a row, by softmax."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
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
            With two classes the logit of ``classes_[1]`` less that of ``classes_[0]``.
        """
        logits = self._outputs(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        proba : ndarray of float64 and shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to one.
        """
        proba = self._outputs(X)
        # In place: beyond the result, memory must not grow with the number of texts.
        proba -= proba.max(axis=1, keepdims=True)
        np.exp(proba, out=proba)
        proba /= proba.sum(axis=1, keepdims=True)
        return proba

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
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def predict(self, X):
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            In the type that the labels had in ``fit``.
        """
        best = self._outputs(X).argmax(axis=1)  # first: it says whether this is fitted
        return self.classes_[best]

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_labels(y, len(rows), type(self).__name__, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> ClassCoding:
        classes = find_classes(y) if earlier is None else earlier.classes_
        return class_coding(classes, self.class_weight, y, weights)

    def _loss(self) -> Any:
        return CrossEntropy() if self.loss == "auto" else named(self.loss, CLASS_LOSSES)

    def _objective(self, model: Any, loss: Any) -> tuple[Any, dict[str, Any]]:
        return losses.CrossEntropy(), {"accuracy": losses.count_correct}

    def _fit_probe(
        self,
        vectors: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        coding: ClassCoding,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        return logistic_probe(vectors, values, weights, len(coding.classes), rng)


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

    def _loss(self) -> Any:
        return named(self.loss, NUMBER_LOSSES)

    def _objective(self, model: Any, loss: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(loss, HuberLoss):
            return losses.Huber(), {}
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

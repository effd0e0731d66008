"""What the logits of a row become: a label or a number."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.concurrency import of_one_fit
from sktransformers.inputs.hierarchy import adaptive_clusters, class_tree, proposal
from sktransformers.inputs.targets import (
    ClassCoding,
    Indicator,
    IndicatorCoding,
    NumberCoding,
    SoftCoding,
    check_classes,
    check_indicator,
    check_labels,
    check_more_classes,
    check_numbers,
    check_soft,
    check_threshold,
    check_varied,
    class_coding,
    class_counts,
    find_classes,
    indicator_coding,
    n_columns,
    soft_coding,
)
from sktransformers.inputs.validation import check_shape, check_weights
from sktransformers.modules import losses
from sktransformers.partial import GrowingClasses, PartialFit
from sktransformers.specs import (
    CLASS_LOSSES,
    HEADS,
    NUMBER_LOSSES,
    AdaptiveSoftmax,
    BinaryCrossEntropy,
    CrossEntropy,
    FocalLoss,
    HuberLoss,
    Linear,
    NativeHead,
    SampledSoftmax,
    TreeSoftmax,
    named,
)
from sktransformers.training.probe import binary_probe, logistic_probe, ridge_probe, soft_probe
from sktransformers.training.thresholds import best_thresholds, threshold_of

# Losses for very many classes, and the last layers that some of them bring along.
_MANY_CLASSES = (AdaptiveSoftmax, TreeSoftmax, SampledSoftmax)
_LAYERS = {AdaptiveSoftmax: "adaptive", TreeSoftmax: "tree"}


_MAX_TUNING_ROWS = 2_000  # of the training rows, for a threshold


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
    def labels(logits: np.ndarray, fitted: Any) -> Any:
        found = expit(logits, out=logits) > fitted.threshold_
        return (found if fitted._csr is None else fitted._csr(found)).astype(np.int64)


class ClassScores(ClassifierMixin):
    """Probabilities of classes from their logits."""

    @of_one_fit
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

    @of_one_fit
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

    @of_one_fit
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
        predicted = self.predict(X)
        n_rows = predicted.shape[0]  # a sparse matrix has no length
        y = self._scored_y(y)
        if n_columns(y) is None:
            y = check_labels(y, n_rows, type(self).__name__)
        else:
            y = self._check_y(y, range(n_rows))
        return accuracy_score(y, predicted, sample_weight=_given(sample_weight, n_rows))

    @of_one_fit
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

    @property
    def _link(self) -> Any:
        return _OneLabel


class LabelOutputs(GrowingClasses, ClassScores):
    """One label a row by softmax, or any number of labels by a sigmoid each."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "threshold": [
            Interval(Real, 0, 1, closed="neither"),
            "array-like",
            dict,
            StrOptions({"tuned"}),
        ],
        "loss": [StrOptions({"auto", *CLASS_LOSSES}), *CLASS_LOSSES.values()],
    }

    @of_one_fit
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
            int, 1 where a label has a probability of more than ``threshold_``. It is sparse, by
            rows, if y was sparse in ``fit``.
        """
        rows = self._fitted_rows(X)  # first: it says whether this is fitted
        if _any_labels(self):
            return self._link.labels(self._decide(rows), self)
        return self._most_probable(rows, 1)[0][:, 0]

    @of_one_fit
    def predict_top_k(self, X, k):
        """The k most probable classes of each row.

        They are those with the k largest values of ``predict_proba``, of equal ones the first in
        ``classes_``, without a matrix of all of these: memory grows with ``n_samples * k``.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.
        k : int
            From 1 to the number of classes.

        Returns
        -------
        labels : ndarray of shape (n_samples, k)
            Most probable first, in the type that the labels had in ``fit``.
        proba : ndarray of float64 and shape (n_samples, k)
            Their probabilities.

        Raises
        ------
        ValueError
            If k is out of range, or each row may have several labels.
        """
        rows = self._fitted_rows(X)
        if _any_labels(self):
            raise ValueError(
                "predict_top_k is for one label a row, but y of fit was an indicator matrix: sort "
                "the columns of predict_proba."
            )
        allowed = Interval(Integral, 1, len(self.classes_), closed="both")
        if isinstance(k, bool) or not allowed.is_satisfied_by(k):
            raise ValueError(
                f"k={k!r} must be an integer from 1 to the number of classes, {len(self.classes_)}."
            )
        return self._most_probable(rows, int(k))

    def _most_probable(self, rows: Sequence[Any], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities of shape (n_samples, k)."""
        found = self._decide(rows, partial(self.model_.most_probable, k=k), 2 * k)
        return self.classes_[found[:, k:].astype(np.int64)], np.exp(found[:, :k])

    def _exported_outputs(self) -> dict[str, Any]:
        meaning = {"task": "classification", "classes": self.classes_.tolist()}
        if not _any_labels(self):
            return meaning | {"apply": "softmax"}
        threshold = np.asarray(self.threshold_).tolist()
        return meaning | {"apply": "sigmoid", "threshold": threshold}

    def _check_saved_attributes(self) -> None:
        super()._check_saved_attributes()
        n_outputs = self.model_.config.num_labels
        check_shape("classes_", self.classes_, (n_outputs,))
        if _any_labels(self) and np.ndim(self.threshold_):
            check_shape("threshold_", self.threshold_, (n_outputs,))

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

    def _make_coding(
        self, y: np.ndarray, weights: np.ndarray, earlier: Any, classes: Any = None
    ) -> Any:
        loss = self._loss()
        known = None if earlier is None else earlier.classes_
        if classes is not None:
            known = check_more_classes(classes, known, isinstance(y, Indicator))
        coding: ClassCoding | IndicatorCoding
        if isinstance(y, Indicator):
            coding = self._indicator_coding(y, weights, earlier, known)
        elif _is_soft(loss):
            self._check_one_label("y gives a row")
            if classes is not None:
                raise ValueError(
                    f"classes and loss={self.loss!r} both say what the columns of y stand for: "
                    f"leave out classes."
                )
            given = check_classes(loss.classes)
            coding = soft_coding(given, self.class_weight, y, weights)
        else:
            self._check_one_label("y gives a row")
            found = find_classes(y) if known is None else known
            coding = class_coding(found, self.class_weight, y, weights)
            coding = self._with_layer(coding, loss, y, weights, earlier)
        if known is not None:
            several = isinstance(coding, IndicatorCoding)
            before = several if earlier is None else _any_labels(earlier)
            if several != before or known.tolist() != coding.classes.tolist():
                hint = "" if several != before else ": name all of them in partial_fit(classes=...)"
                raise ValueError(
                    f"Training goes on from a model of {'any number of' if before else 'one of'} "
                    f"the labels {known.tolist()} a row, but y has "
                    f"{'any number of' if several else 'one of'} {coding.classes.tolist()}{hint}."
                )
        return coding

    def _with_layer(
        self, coding: ClassCoding, loss: Any, y: np.ndarray, weights: np.ndarray, earlier: Any
    ) -> ClassCoding:
        """Coding that knows the output layer of a loss for very many classes."""
        config = None if earlier is None else earlier.model_.config
        native = config is not None and config.pooling == "native"
        if isinstance(loss, _MANY_CLASSES) and (
            native or isinstance(named(self.head, HEADS), NativeHead)
        ):
            raise ValueError(
                f'loss={self.loss!r} and head="native" contradict each other: the last layer of '
                f"the family's head gives all logits."
            )
        head = named(self.head, HEADS)
        if type(loss) in _LAYERS and isinstance(head, Linear) and not head.bias:
            raise ValueError(
                f"loss={self.loss!r} and head={self.head!r} contradict each other: the loss brings "
                f"a last layer of its own, which has biases."
            )
        kind = _LAYERS.get(type(loss))
        before = kind if config is None else (config.head_softmax or {}).get("kind")
        if kind != before:
            raise ValueError(
                f"loss={self.loss!r} goes with a head whose last layer is {kind or 'linear'}, but "
                f"that of the fitted model is {before or 'linear'}: pass the loss it was trained "
                f"with, or fit it anew with warm_start=False."
            )
        if not isinstance(loss, _MANY_CLASSES):
            return coding
        counts = class_counts(coding.classes, y, weights)
        softmax: dict[str, Any] | None = None
        if config is not None:
            softmax = config.head_softmax
        elif isinstance(loss, AdaptiveSoftmax):
            softmax = adaptive_clusters(counts, loss.cutoffs) | {"div_value": loss.div_value}
        elif isinstance(loss, TreeSoftmax):
            softmax = {"children": class_tree(loss.tree, coding.classes, counts)}
        if softmax is not None:
            softmax = {"kind": kind, **softmax}
        return replace(coding, counts=counts, softmax=softmax)

    def _indicator_coding(
        self, y: Indicator, weights: np.ndarray, earlier: Any, known: np.ndarray | None
    ) -> IndicatorCoding:
        if self.class_weight is not None:
            raise ValueError(
                f"class_weight={self.class_weight!r} is for one label a row, but y is an "
                f"indicator matrix; weigh labels with loss=BinaryCrossEntropy(pos_weight=...)."
            )
        labels = np.arange(y.shape[1]) if y.names is None else y.names
        if known is None:
            check_varied(y, labels)
        elif len(known) == len(labels):
            labels = known
        threshold = self.threshold
        if self._tunes and hasattr(earlier, "threshold_"):  # until there is something to tune on
            threshold = earlier.threshold_
            if np.ndim(threshold):
                threshold = dict(zip(earlier.classes_.tolist(), threshold.tolist()))
        return indicator_coding(
            labels, getattr(self._loss(), "pos_weight", None), threshold, y, weights
        )

    @property
    def _tunes(self) -> bool:
        return isinstance(self.threshold, str)

    def _check_one_label(self, what: str) -> None:
        """Check that nothing is asked for that several labels a row alone have."""
        if not isinstance(self.threshold, Real) or self.threshold != 0.5:
            raise ValueError(
                f"threshold={self.threshold!r} is for any number of labels a row, but {what} one: "
                f"the most probable. Leave threshold at 0.5, or make y an indicator matrix."
            )

    def _check_plan(self, coding: Any, validation: Any, earlier: Any) -> None:
        untold = validation is None and self.head_init != "probe" and earlier is None
        if isinstance(coding, IndicatorCoding) and self._tunes and untold:
            raise ValueError(
                f"threshold='tuned' and head_init={self.head_init!r} contradict each other "
                f"without validation rows: there is nothing to tune on. Take head_init='probe' "
                f"or early_stopping=True, or pass X_val and y_val."
            )

    def _counted(self, train: Any, coding: Any, earlier: Any) -> dict[str, Any]:
        n = len(coding.classes)
        counts = np.zeros(n, np.int64)
        if train is not None and isinstance(coding, IndicatorCoding):
            counts += train.targets.values.sum(axis=0, dtype=np.int64)
        elif train is not None:
            counts += np.bincount(train.targets.strata, minlength=n)
        if earlier is not None:
            places = {label: i for i, label in enumerate(coding.classes.tolist())}
            counts[[places[label] for label in earlier.classes_.tolist()]] += earlier.class_count_
        return {**super()._counted(train, coding, earlier), "class_count_": counts}

    def _after_training(
        self, fitted: dict[str, Any], train: Any, validation: Any, coding: Any
    ) -> dict[str, Any]:
        if not isinstance(coding, IndicatorCoding):
            self.__dict__.pop("threshold_", None)  # of an earlier fit
            return {}
        if not self._tunes or (validation is None and not coding.shares):
            return {}
        view = copy.copy(self)
        view.__dict__.update(fitted)
        if validation is not None:
            proba, targets = expit(view._decide(validation.rows)), validation.targets
            return {"threshold_": best_thresholds(proba, targets.values, targets.weights)}
        n = len(train.rows)
        some = np.unique(np.linspace(0, n - 1, min(n, _MAX_TUNING_ROWS)).astype(int))
        proba = expit(view._decide([train.rows[i] for i in some]))
        return {"threshold_": threshold_of(proba, coding.shares[-1])}

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
            if self._tunes:
                raise ValueError(
                    f"threshold='tuned' needs rows to tune on, and {name} is read as it is: pass "
                    f"a number to from_pretrained, or one a label."
                )
            classes = np.array(names)
            return IndicatorCoding(classes, None, check_threshold(self.threshold, classes))
        self._check_one_label(f"{name} gives a row")
        return ClassCoding(np.array(sorted(names)), np.ones(len(names)))

    def _loss(self) -> Any:
        if isinstance(self.loss, str) and self.loss == "auto":
            return CrossEntropy()
        return named(self.loss, CLASS_LOSSES)

    def _class_names(self, coding: Any) -> list[str] | None:
        return None if isinstance(coding, IndicatorCoding) else coding.names

    def _objective(self, model: Any, loss: Any, coding: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(coding, IndicatorCoding):
            factors = _tensor(coding.pos_weight)
            accuracy = {"accuracy": losses.share_of_right_labels}
            return losses.BinaryCrossEntropy(factors), accuracy
        model.defers = isinstance(loss, _MANY_CLASSES)
        if isinstance(loss, SampledSoftmax):
            negatives = torch.from_numpy(proposal(loss.proposal, coding.counts)).float()
            return losses.SampledCrossEntropy(int(loss.n_negatives), negatives), {}
        if model.defers:
            return losses.LayerLikelihood(), {}
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
            coef, intercept, share = binary_probe(vectors, values, weights, coding.pos_weight, rng)
            coding.shares.append(share)
            return coef, intercept
        if isinstance(coding, SoftCoding):
            return soft_probe(vectors, coding.weighted(values), weights, rng)
        return logistic_probe(vectors, values, weights, len(coding.classes), rng)


def _tensor(factors: np.ndarray | None) -> torch.Tensor | None:
    """Factors in float32: some devices know no float64."""
    return None if factors is None else torch.from_numpy(factors).float()


def _any_labels(estimator: Any) -> bool:
    """Whether a fitted estimator gives any number of labels a row."""
    return estimator.model_.config.problem_type == IndicatorCoding.problem_type


def _given(sample_weight: Any, n_rows: int) -> np.ndarray | None:
    """Checked weights, if there are any."""
    return None if sample_weight is None else check_weights(sample_weight, n_rows)


def _is_soft(loss: Any) -> bool:
    """Whether y is a matrix of probabilities."""
    return isinstance(loss, CrossEntropy) and loss.classes is not None


class NumberOutputs(PartialFit, RegressorMixin):
    """One number a row, or several; the model sees each of them standardised."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "loss": [StrOptions(set(NUMBER_LOSSES)), *NUMBER_LOSSES.values()],
    }

    @of_one_fit
    def predict(self, X):
        """Number of each row, or its numbers.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        numbers : ndarray of float64 and shape (n_samples,) or (n_samples, n_outputs)
            In the units of ``y`` in ``fit``, whose number of dimensions it has.
        """
        outputs = self._outputs(X)  # first: it says whether this is fitted
        outputs = outputs if np.ndim(self.target_mean_) else outputs[:, 0]
        return outputs * self.target_scale_ + self.target_mean_

    def score(self, X, y, sample_weight=None):
        """Coefficient of determination, R2; of several numbers a row the mean.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
        """
        predicted = self.predict(X)
        y = self._check_y(y, predicted)
        return r2_score(y, predicted, sample_weight=_given(sample_weight, len(predicted)))

    def _check_saved_attributes(self) -> None:
        super()._check_saved_attributes()
        n_outputs = self.model_.config.num_labels
        for name in ("target_mean_", "target_scale_"):
            value = getattr(self, name)
            if n_outputs > 1 or type(value) is not float:
                check_shape(name, value, (n_outputs,))

    def _exported_outputs(self) -> dict[str, Any]:
        mean, scale = (np.asarray(x).tolist() for x in (self.target_mean_, self.target_scale_))
        return {
            "task": "regression",
            "apply": "none",
            "target_mean": mean,
            "target_scale": scale,
        }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_numbers(y, len(rows), type(self).__name__, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> NumberCoding:
        if earlier is None:
            return NumberCoding.of(y, weights)
        labels = earlier.model_.config.id2label
        names = [labels[i] for i in range(len(labels))]
        return NumberCoding(earlier.target_mean_, earlier.target_scale_, names)

    def _checkpoint_coding(
        self, names: list[str], problem_type: str | None, name: str
    ) -> NumberCoding:
        if len(names) == 1:
            return NumberCoding(0.0, 1.0, names)
        if problem_type != NumberCoding.problem_type:
            raise ValueError(
                f"{name} has {len(names)} outputs ({', '.join(names[:5])}) and is no checkpoint "
                f"for regression: a classifier can read it, {type(self).__name__} cannot."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"{name} gives several of its outputs the same name: {names}.")
        return NumberCoding(np.zeros(len(names)), np.ones(len(names)), names)

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

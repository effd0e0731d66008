"""Several targets of one text, or of a pair: classes and numbers, some of them missing."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions

from sktransformers._docs import shared_docs
from sktransformers.concurrency import of_one_fit
from sktransformers.estimator import TransformerEstimator, window_plan, window_pooling
from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Encoded
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.inputs.pair_encoding import PairEncoder
from sktransformers.inputs.targets import Targets
from sktransformers.inputs.tasks import (
    CLASSES,
    TaskCoding,
    TaskTable,
    check_tasks,
    like_table,
    n_texts,
    tasks_of,
    texts_or_pairs,
)
from sktransformers.inputs.validation import check_weights
from sktransformers.modules.backbone import uses_token_types
from sktransformers.modules.model import settled_vectors
from sktransformers.modules.multitask import (
    MultiTaskConfig,
    MultiTaskLoss,
    MultiTaskModel,
    task_metrics,
)
from sktransformers.modules.pooling import POOLINGS
from sktransformers.partial import PartialFit
from sktransformers.specs import DEFAULT_BACKBONE, HEADS, Linear, MLPHead, NativeHead, named
from sktransformers.training.probe import logistic_probe, probe_rows, ridge_probe, start_layer


@shared_docs
class MultiTaskSequenceEstimator(PartialFit, TransformerEstimator):
    r"""Fine-tune one pretrained transformer for several targets of a text at once.

    Each column of y is a task with a head of its own, on one backbone that all of them train
    (hard parameter sharing, Caruana 1997). Columns of classes and of numbers may be mixed, and
    entries may be missing: they are not trained on. So can data sets of different texts, each
    with labels for its own task, be put below one another.

    With the entries (i, t) of a batch that are there, training minimises

    .. math::

        L = \frac{\sum_{(i, t)} \lambda_t w_i \ell_{it}}{\sum_{(i, t)} w_i},

    with the sample weights w, the cross-entropy :math:`\ell` of classes or the squared error of
    standardised numbers, and :math:`\lambda` the ``task_weights``, scaled so that their mean over
    all entries of the training rows is one. A missing entry is in neither sum.

    Parameters
    ----------
    {backbone}
    tasks : dict, list or None, default=None
        ``"classification"`` or ``"regression"`` for each column of y, or in a dict for some of
        them by name (by number where y has no names). Other columns are for classification if
        they hold strings, bools, categories or whole numbers, and for regression if they hold
        fractions. Whole numbers are classes whatever their type, as for scikit-learn's
        ``type_of_target``: a column of int with missing entries is one of float in pandas and
        NumPy.
    task_weights : dict, array-like of shape (n_tasks,), "balanced" or None, default=None
        Weight of each task in the loss, in a dict by name or number of the column (one for those
        left out). Only their proportions count. ``"balanced"`` makes all tasks weigh the same in
        sum, however many entries each has.
    {pooling}
    head : "linear", Linear or MLPHead, default="linear"
        What maps the pooled vector to the outputs of a task: ``"linear"`` means
        ``Linear(dropout=0.1)``. Each task has its own.
    head_init : {"probe", "random"}, default="probe"
        Start of each head's last layer. ``"probe"`` fits a regularised logistic or ridge
        regression on the frozen backbone's vectors of at most 10,000 rows that have an entry for
        the task and takes its weights (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down
        to its held-out loss and by half again. ``"random"`` draws weights from N(0, 0.02) with
        zero bias.
    {finetune}
    {optimisation}
    {long_text}
    {max_batch_tokens}
    {training}

    Attributes
    ----------
    task_names_ : list
        Names of the columns of y, or their numbers.
    tasks_ : list of {"classification", "regression"}
        What each column is for.
    classes_ : list of ndarray or None
        Sorted labels of each task, None for numbers.
    target_mean_, target_scale_ : ndarray of shape (n_tasks,)
        Weighted mean and standard deviation of the training numbers, NaN for classes.
    n_texts_ : int
        Texts of each row of X: 1, or 2 for pairs.
    {attributes}
    n_features_in_ : int
        1, or 2 for pairs; only if X was a table.
    feature_names_in_ : ndarray
        Only if X was a table with column names.

    See Also
    --------
    TransformerSequenceRegressor : Several numbers, none of them missing.
    TransformerSequenceClassifier : One task; or several labels that a text has or has not.

    Notes
    -----
    It is no ``ClassifierMixin`` and no ``RegressorMixin``: scikit-learn cannot tell the type of
    a mixed y with missing entries, and an integer ``cv`` means ``KFold``. If rows are sorted by
    data set, pass ``KFold(shuffle=True)``.

    X holds texts, or pairs of texts in two columns or tuples, which are read as one sequence as
    in ``PairClassifier(interaction="cross")``.

    For a task t, ``history_`` has ``train_accuracy_t`` or ``train_squared_error_t`` (of
    standardised numbers) over its entries, and the same of validation rows.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransformers import MultiTaskSequenceEstimator
    >>> X = ["a warm and funny film", "two hours I will never get back", "when does it open?"]
    >>> y = pd.DataFrame(
    ...     {"mood": ["good", "bad", None], "stars": [4.5, 1.5, None], "asks": [None, False, True]}
    ... )
    >>> est = MultiTaskSequenceEstimator(random_state=0)
    >>> est.fit(X * 8, pd.concat([y] * 8)).predict(["what a lovely evening"])  # doctest: +SKIP
       mood  stars   asks
    0  good    4.2  False
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TransformerEstimator._parameter_constraints,
        "tasks": [dict, "array-like", None],
        "task_weights": [dict, "array-like", StrOptions({"balanced"}), None],
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "head": [StrOptions(set(HEADS)), Linear, MLPHead, NativeHead],
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        tasks=None,
        task_weights=None,
        pooling="auto",
        head="linear",
        head_init="probe",
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
        long_text="truncate",
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
        checkpoint=None,
        callbacks=None,
        device="auto",
        precision="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.tasks = tasks
        self.task_weights = task_weights
        self.pooling = pooling
        self.head = head
        self.head_init = head_init
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
        self.long_text = long_text
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
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    # -------------------------------------------------------------- predict

    @of_one_fit
    def predict(self, X):
        """Most probable class, or number, of each row for each task.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        predictions : DataFrame or ndarray of shape (n_samples, n_tasks)
            A table like y if that was one of pandas or polars in ``fit``: with its columns and
            their types (floats for numbers), and in pandas the index of X if that has one.
            Otherwise an array, of object if the columns are of different types.
        """
        columns = self._decoded(self._outputs(X))
        if self._y_like is not None:
            return like_table(self._y_like, columns, self.tasks_, X)
        if len({column.dtype.kind for column in columns}) == 1:
            return np.column_stack(columns)
        return np.column_stack([column.astype(object) for column in columns])

    @of_one_fit
    def predict_proba(self, X):
        """Probability of each class, for each task.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.

        Returns
        -------
        proba : list of (ndarray of float64 and shape (n_samples, n_classes), or None)
            One array a task as in scikit-learn's multi-output classifiers, its columns in the
            order of the task's ``classes_``; None in the place of a task of numbers.
        """
        parts = self._by_task(self._outputs(X))
        return [
            None if classes is None else softmax(logits, axis=1)
            for logits, classes in zip(parts, self.classes_)
        ]

    @of_one_fit
    def scores(self, X, y, sample_weight=None):
        """Accuracy or R2 of each task, over the entries that are there.

        Parameters
        ----------
        X : array-like
            Texts or pairs, as in ``fit``.
        y : table, array or list of rows, of shape (n_samples, n_tasks)
            The columns of ``fit``; entries may be missing.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        scores : dict
            Task -> score. NaN for a class without an entry, or numbers with fewer than two.
        """
        rows = self._fitted_rows(X)
        weights = check_weights(sample_weight, len(rows))
        table = check_tasks(y, rows, None, type(self).__name__, trained=tasks_of(self))
        there = table.present & (weights > 0)[:, None]
        found = {}
        for j, (name, predicted) in enumerate(
            zip(self.task_names_, self._decoded(self._decide(rows)))
        ):
            some = np.flatnonzero(there[:, j])
            true = np.asarray(table)[some, j].tolist()
            if self.tasks_[j] == CLASSES:
                right = [a == b for a, b in zip(true, predicted[some].tolist())]
                found[name] = float(np.average(right, weights=weights[some])) if right else np.nan
            elif len(some) < 2:
                found[name] = np.nan
            else:
                found[name] = r2_score(true, predicted[some], sample_weight=weights[some])
        return found

    @of_one_fit
    def score(self, X, y, sample_weight=None):
        """Mean of ``scores`` over the tasks that have one.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``scores``.

        Returns
        -------
        score : float

        Raises
        ------
        ValueError
            If y has no entry that could be scored.
        """
        values = np.array(list(self.scores(X, y, sample_weight).values()))
        if np.isnan(values).all():
            raise ValueError("y has no entries to score: no label, and no two numbers of a task.")
        return float(np.nanmean(values))

    def _check_saved_attributes(self) -> None:
        super()._check_saved_attributes()
        sizes = [task.n_outputs for task in tasks_of(self)]
        if sizes != self.model_.config.task_sizes or self.n_texts_ not in (1, 2):
            raise ValueError(
                f"there are tasks of {sizes} outputs and {self.n_texts_!r} texts a row"
            )

    def _by_task(self, outputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of each task."""
        return np.split(outputs, np.cumsum(self.model_.config.task_sizes)[:-1], axis=1)

    def _decoded(self, outputs: np.ndarray) -> list[np.ndarray]:
        """Predictions of each task."""
        return [task.decode(part) for task, part in zip(tasks_of(self), self._by_task(outputs))]

    def _fitted_rows(self, X: Any) -> Sequence[Any]:
        rows = super()._fitted_rows(X)
        if n_texts(rows) != self.n_texts_:
            raise ValueError(
                f"X has {n_texts(rows)} text(s) a row, but training was with {self.n_texts_}."
            )
        return rows

    # ------------------------------------------------------------ the task

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        return tags

    def _head(self) -> Any:
        head = named(self.head, HEADS)
        if isinstance(head, NativeHead):
            raise ValueError(
                f"head={self.head!r}: the head of a backbone's family has the outputs of one task, "
                f'{type(self).__name__} gives each task its own. Pass head="linear", Linear or '
                f"MLPHead."
            )
        return head

    def _check_X(self, X: Any, name: str = "X") -> Sequence[Any]:
        return texts_or_pairs(X, name)

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> TaskTable:
        return check_tasks(y, rows, self.tasks, type(self).__name__, name)

    def _make_coding(self, y: Any, weights: np.ndarray, earlier: Any) -> TaskCoding:
        return TaskCoding.of(y, weights, self.task_weights, earlier)

    def _check_plan(self, coding: TaskCoding, validation: Any, earlier: Any) -> None:
        if validation is None or not isinstance(self.scoring, str) or self.scoring == "loss":
            return
        classes = any(task.kind == CLASSES for task in coding.tasks)
        if classes or not validation.y.present.all():
            raise ValueError(
                f"scoring={self.scoring!r} compares all of y at once, but the validation rows have "
                f"{'tasks of classes' if classes else 'missing entries'}. Pass scoring=None for "
                f"the mean of `scores`, or a function (estimator, X, y) -> float."
            )

    def _make_model(
        self, backbone: Any, pooling: str, coding: TaskCoding, **config: Any
    ) -> MultiTaskModel:
        return MultiTaskModel(
            MultiTaskConfig(
                task_sizes=[task.n_outputs for task in coding.tasks],
                pairs=coding.n_texts == 2,
                pooling=pooling if self.pooling == "auto" else self.pooling,
                window_pooling=window_pooling(self.long_text),
                **config,
            ),
            backbone,
        )

    def _make_encoder(
        self, model: Any, tokenizer: Any, max_length: int
    ) -> TextEncoder | PairEncoder:
        windows = window_plan(self.long_text)
        if not model.config.pairs:
            return TextEncoder(tokenizer, max_length, windows)
        types = uses_token_types(model.backbone)
        return PairEncoder(tokenizer, max_length, joined=True, token_types=types, windows=windows)

    def _loss(self) -> None:
        """Each task has the loss of its kind."""

    def _objective(self, model: Any, loss: Any, coding: TaskCoding) -> tuple[Any, dict[str, Any]]:
        sizes = model.config.task_sizes
        labels = [task.label for task in coding.tasks]
        criterion = MultiTaskLoss(sizes, torch.from_numpy(coding.factors).float())
        return criterion, task_metrics(sizes, labels)

    def _start_from_probe(
        self,
        model: Any,
        encoded: Encoded,
        targets: Targets,
        coding: TaskCoding,
        predictor: Predictor,
        rng: np.random.Generator,
    ) -> None:
        rows = probe_rows(targets.weights > 0, rng)
        model.eval()
        # The backbone reads the rows of all tasks once.
        encode, decide = model.head_stages()
        read = predictor.rows(encode, decide, encoded.take(rows), model.unit)
        targets = targets.take(rows)
        for j, (task, head) in enumerate(zip(coding.tasks, model.head)):
            some = np.flatnonzero(targets.weights[:, j])
            vectors = settled_vectors(head, read[some]).astype(np.float64)
            values, weights = targets.values[some, j], targets.weights[some, j]
            if task.classes is None:
                coef, intercept = ridge_probe(vectors, values, weights, rng)
            else:
                codes = values.astype(np.int64)
                coef, intercept = logistic_probe(vectors, codes, weights, task.n_outputs, rng)
            start_layer(head.out, vectors, coef, intercept)

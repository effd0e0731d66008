"""Texts in, one label or number a text out."""

from collections.abc import Sequence
from typing import Any, ClassVar

from sklearn.utils._param_validation import StrOptions

from sktransformers._docs import shared_docs
from sktransformers.estimator import (
    TransformerEstimator,
    check_one_window,
    window_plan,
    window_pooling,
)
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.inputs.validation import as_texts
from sktransformers.modules.model import SequenceConfig, SequenceModel
from sktransformers.modules.native import NativeSequenceModel
from sktransformers.modules.pooling import POOLINGS
from sktransformers.outputs import LabelOutputs, NumberOutputs
from sktransformers.specs import DEFAULT_BACKBONE


class SequenceEstimator(TransformerEstimator):
    """What classifier and regressor of texts share: how texts are read."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TransformerEstimator._parameter_constraints,
        "pooling": [StrOptions({"auto", *POOLINGS})],
    }
    _native_model = NativeSequenceModel
    _native_choices: ClassVar[dict[str, tuple[Any, ...]]] = {"pooling": ("auto",)}

    def _check_X(self, X: Any, name: str = "X") -> Sequence[str]:
        return as_texts(X, name)

    def _make_model(self, backbone: Any, pooling: str, coding: Any, **config: Any) -> SequenceModel:
        return SequenceModel(
            SequenceConfig(
                pooling=pooling if self.pooling == "auto" else self.pooling,
                window_pooling=window_pooling(self.long_text),
                **config,
            ),
            backbone,
        )

    def _native_config(self) -> dict[str, Any]:
        return {"pooling": "native"}

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> TextEncoder:
        return TextEncoder(tokenizer, max_length, window_plan(self.long_text))

    def _exported_rows(self) -> dict[str, Any]:
        check_one_window(self.long_text)
        return {"rows": "texts"}


@shared_docs
class TransformerSequenceClassifier(LabelOutputs, SequenceEstimator):
    """Fine-tune a pretrained transformer to classify texts.

    The backbone turns the tokens of a text into vectors, pooling makes one vector h of
    them, and a linear head gives class probabilities :math:`y = softmax(h W_C + b)`; for
    CLS pooling :math:`h = h_{CLS}` (Devlin et al. 2019, arXiv:1810.04805, section 4.1).
    Backbone and head are trained together to minimise the weighted cross-entropy.

    Parameters
    ----------
    {backbone}
    {pooling}
    head : {"linear", "native"}, Linear, MLPHead or NativeHead, default="linear"
        What maps the pooled vector to logits. ``"linear"`` means ``Linear(dropout=0.1)``;
        ``"native"`` is the head that the backbone's family has in the transformers library,
        pooling included.
    head_init : {"probe", "random"}, default="probe"
        Start of the head's last layer. ``"probe"`` fits a regularised logistic regression on
        the frozen backbone's pooled vectors of at most 10,000 training texts and takes its
        weights (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down to its held-out loss
        and by half again; class means where 10,000,000 rows times classes are exceeded, and
        a fit of the layer itself for the adaptive and the tree softmax. ``"random"`` draws
        weights from N(0, 0.02) with zero bias.
    {class_loss}
    {finetune}
    {optimisation}
    {long_text}
    {max_batch_tokens}
    {class_weight}
    {training}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels; the order of the columns of ``predict_proba``. If y was an indicator
        matrix, the names of its columns, or their numbers.
    {class_count_}
    {threshold_}
    {attributes}
    {table}

    See Also
    --------
    sktransformers.Backbone : Options of the backbone.
    sktransformers.AdamW : Options of the optimizer.

    Examples
    --------
    >>> from sktransformers import TransformerSequenceClassifier
    >>> X = ["a warm and funny film", "two hours I will never get back"] * 8
    >>> y = ["good", "bad"] * 8
    >>> clf = TransformerSequenceClassifier(random_state=0).fit(X, y)  # doctest: +SKIP
    >>> clf.predict(["what a lovely evening"])  # doctest: +SKIP
    array(['good'], dtype='<U4')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SequenceEstimator._parameter_constraints,
        **LabelOutputs._parameter_constraints,
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        pooling="auto",
        head="linear",
        head_init="probe",
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
        long_text="truncate",
        max_batch_tokens=4096,
        augment=None,
        class_weight=None,
        threshold=0.5,
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
        self.pooling = pooling
        self.head = head
        self.head_init = head_init
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
        self.long_text = long_text
        self.max_batch_tokens = max_batch_tokens
        self.augment = augment
        self.class_weight = class_weight
        self.threshold = threshold
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


@shared_docs
class TransformerSequenceRegressor(NumberOutputs, SequenceEstimator):
    """Fine-tune a pretrained transformer to give each text a number, or several.

    For sentiment on a scale, readability, grades, prices. The backbone turns the tokens of a
    text into vectors, pooling makes one vector h of them, and a linear head gives the numbers
    :math:`y = h W + b`. Targets are standardised for training, and predictions come in their
    unit; with several columns in y all outputs share the backbone and are trained together.

    Parameters
    ----------
    {backbone}
    {pooling}
    head : {"linear", "native"}, Linear, MLPHead or NativeHead, default="linear"
        What maps the pooled vector to numbers. ``"linear"`` means ``Linear(dropout=0.1)``;
        ``"native"`` is the head that the backbone's family has in the transformers library,
        pooling included.
    head_init : {"probe", "random"}, default="probe"
        Start of the head's last layer. ``"probe"`` fits a ridge regression of each output on the
        frozen backbone's pooled vectors of at most 10,000 training texts and takes its weights
        (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down to its leave-one-out error and
        by half again. ``"random"`` draws weights from N(0, 0.02) with zero bias.
    {finetune}
    {optimisation}
    {long_text}
    {max_batch_tokens}
    {number_loss}
    {training}

    Attributes
    ----------
    {target_unit}
    {attributes}
    {table}

    See Also
    --------
    TransformerSequenceClassifier : Labels instead of numbers.
    MultiTaskSequenceEstimator : Numbers and labels together, some of them missing.
    sktransformers.metrics.pearson_scorer, sktransformers.metrics.spearman_scorer : Scorers.

    Examples
    --------
    >>> from sktransformers import TransformerSequenceRegressor
    >>> X = ["a warm and funny film", "two hours I will never get back"] * 8
    >>> reg = TransformerSequenceRegressor(random_state=0)
    >>> reg.fit(X, [4.5, 1.0] * 8).predict(["what a lovely evening"])  # doctest: +SKIP
    array([4.1])
    >>> joy_and_anger = [[0.9, 0.0], [0.1, 0.7]] * 8
    >>> reg.fit(X, joy_and_anger).predict(["what a lovely evening"])  # doctest: +SKIP
    array([[0.8, 0.1]])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SequenceEstimator._parameter_constraints,
        **NumberOutputs._parameter_constraints,
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
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
        loss="squared_error",
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
        self.loss = loss
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

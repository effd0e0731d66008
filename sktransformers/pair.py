"""Two texts in, one label or number a pair out."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions

from sktransformers._docs import shared_docs
from sktransformers.course import Options
from sktransformers.estimator import (
    TransformerEstimator,
    check_one_window,
    window_plan,
    window_pooling,
)
from sktransformers.fitted import chunks
from sktransformers.inputs.encoding import Counts
from sktransformers.inputs.pair_encoding import PairEncoder
from sktransformers.inputs.pairs import as_pairs
from sktransformers.modules.backbone import uses_token_types
from sktransformers.modules.interaction import WIDTHS
from sktransformers.modules.model import PairConfig, PairModel, SequenceConfig, SequenceModel
from sktransformers.modules.native import NativeSequenceModel
from sktransformers.modules.pooling import POOLINGS
from sktransformers.outputs import LabelOutputs, NumberOutputs
from sktransformers.specs import DEFAULT_BACKBONE, Linear


class PairEstimator(TransformerEstimator):
    """What classifier and regressor of pairs share: how pairs are read."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TransformerEstimator._parameter_constraints,
        "interaction": [StrOptions({"cross", *WIDTHS})],
        "symmetric": ["boolean"],
        "pooling": [StrOptions({"auto", *POOLINGS})],
    }
    _native_model = NativeSequenceModel
    _native_choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "interaction": ("cross",),
        "pooling": ("auto",),
    }
    _checkpoint_parameters: ClassVar[dict[str, Any]] = {"interaction": "cross"}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = False
        return tags

    def _check_options(self) -> Options:
        options = super()._check_options()
        odd = isinstance(options.head, Linear) and options.head.activation is None
        if self.symmetric and self.interaction == "difference" and odd:
            raise ValueError(
                'symmetric=True with interaction="difference" leaves a linear head nothing: '
                "the logits of both orders cancel. Take another interaction, or a head with "
                'an activation such as Linear(activation="relu").'
            )
        return options

    def _check_X(self, X: Any, name: str = "X") -> Sequence[tuple[str, str]]:
        return as_pairs(X, name)

    def _make_model(self, backbone: Any, pooling: str, coding: Any, **config: Any) -> SequenceModel:
        config |= {
            "pooling": pooling if self.pooling == "auto" else self.pooling,
            "window_pooling": window_pooling(self.long_text),
            "symmetric": self.symmetric,
        }
        if self.interaction == "cross":
            return SequenceModel(SequenceConfig(**config), backbone)
        return PairModel(PairConfig(interaction=self.interaction, **config), backbone)

    def _native_config(self) -> dict[str, Any]:
        return {"pooling": "native", "symmetric": self.symmetric}

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> PairEncoder:
        joined = not isinstance(model, PairModel)
        return PairEncoder(
            tokenizer,
            max_length,
            joined=joined,
            symmetric=model.config.symmetric,
            token_types=joined and uses_token_types(model.backbone),
            windows=window_plan(self.long_text),
        )

    def _exported_rows(self) -> dict[str, Any]:
        check_one_window(self.long_text)
        model = self.model_
        if isinstance(model, PairModel):
            raise ValueError(
                f"export_onnx writes a model of one sequence a row, but "
                f"interaction={model.config.interaction!r} reads two: fit with "
                f'interaction="cross".'
            )
        if model.config.symmetric:
            raise ValueError(
                "export_onnx writes a model of one sequence a row, but symmetric=True reads a "
                "pair in both orders: fit with symmetric=False."
            )
        return {"rows": "pairs"}

    def _decide(
        self,
        rows: Sequence[tuple[str, str]],
        decide: Callable[..., Any] | None = None,
        width: int = 0,
    ) -> np.ndarray:
        model: Any = self._running
        if not isinstance(model, PairModel) or model.unit == "token":
            return super()._decide(rows, decide, width)
        # Each distinct text of all rows once; what is kept of it is one vector.
        encoder = self._make_encoder(self.model_, self.tokenizer_, self.max_length_)
        predictor = self._predictor(self.model_, encoder.pad_id)
        place: dict[str, int] = {}
        pairs = np.array([[place.setdefault(text, len(place)) for text in row] for row in rows])
        texts = list(place)
        vectors, counts = [], []
        with self._recalling(predictor) as quicker:
            for part in chunks(len(texts)):
                encoded, counted = encoder.encode_texts(texts[part])
                counts.append(counted)
                vectors.append(quicker(encoded).texts(model, encoded))
        Counts.total(counts).warn(self.max_length_)
        found = torch.cat(vectors)
        last: Any = decide or model.decide
        n_outputs: Any = width or model.config.num_labels
        outputs = np.empty((len(rows), n_outputs))
        for part in chunks(len(rows)):
            distinct, where = np.unique(pairs[part], return_inverse=True)
            sizes, where = np.ones_like(distinct), where.reshape(-1, 2)
            outputs[part] = predictor.decide(last, found, distinct, sizes, where)
        return outputs


@shared_docs
class PairClassifier(LabelOutputs, PairEstimator):
    r"""Fine-tune a pretrained transformer to classify pairs of texts.

    For natural language inference, paraphrases, relevance of an answer to a question: what
    depends on two texts, the premise and the hypothesis, the question and the answer.

    Parameters
    ----------
    {backbone}
    interaction : {"cross", "concat", "difference", "product", "all", "attention"}, default="cross"
        How the two texts a and b meet.

        - ``"cross"``: one sequence, ``[CLS] a [SEP] b [SEP]`` in the backbone's own format,
          pooled: :math:`y = softmax(h W_C)` (Devlin et al. 2019, arXiv:1810.04805). The
          longer text is cut first.
        - The others read both texts one by one through the same backbone, a text that
          several pairs share only once (a bi-encoder, Reimers and Gurevych 2019,
          arXiv:1908.10084), and join their vectors: ``"concat"`` :math:`(h_a; h_b)`,
          ``"difference"`` :math:`h_a - h_b`, ``"product"`` :math:`h_a \circ h_b`, ``"all"``
          :math:`(h_a; h_b; |h_a - h_b|; h_a \circ h_b)`, or ``"attention"``, where the
          tokens of each text look up those of the other (Parikh et al. 2016,
          arXiv:1606.01933).
    symmetric : bool, default=False
        Whether logits are the mean over both orders, so that (a, b) and (b, a) are the same
        pair.
    {pooling}
    head : {"linear", "native"}, Linear, MLPHead or NativeHead, default="linear"
        What maps the vector of a pair to logits: ``"linear"`` is ``Linear(dropout=0.1)``,
        ``Linear(activation="relu")`` puts a ReLU before it, ``MLPHead()`` a hidden layer.
        ``"native"`` is the head that the backbone's family has in the transformers library,
        pooling included, for ``interaction="cross"``.
    head_init : {"probe", "random"}, default="probe"
        Start of the head's last layer. ``"probe"`` fits a regularised linear model on the
        vectors that the frozen backbone gives for at most 10,000 training pairs and takes its
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
    n_features_in_ : int
        2, only if X was a table.
    feature_names_in_ : ndarray of shape (2,)
        Only if X was a table with column names.

    See Also
    --------
    PairRegressor : Numbers instead of labels.
    TransformerSequenceClassifier : One text a row.

    Examples
    --------
    >>> from sktransformers import PairClassifier
    >>> X = [("a dog runs", "an animal moves"), ("a dog runs", "a cat sleeps")] * 8
    >>> y = ["entailment", "contradiction"] * 8
    >>> clf = PairClassifier(random_state=0).fit(X, y)  # doctest: +SKIP
    >>> clf.predict([("a horse jumps", "an animal moves")])  # doctest: +SKIP
    array(['entailment'], dtype='<U13')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PairEstimator._parameter_constraints,
        **LabelOutputs._parameter_constraints,
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        interaction="cross",
        symmetric=False,
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
        self.interaction = interaction
        self.symmetric = symmetric
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
class PairRegressor(NumberOutputs, PairEstimator):
    r"""Fine-tune a pretrained transformer to give each pair of texts a number, or several.

    For semantic similarity, relatedness, relevance on a scale. Targets are standardised for
    training, and predictions come in their unit; y may have several columns.

    Parameters
    ----------
    {backbone}
    interaction : {"cross", "concat", "difference", "product", "all", "attention"}, default="all"
        How the two texts a and b meet.

        - ``"cross"``: one sequence, ``[CLS] a [SEP] b [SEP]`` in the backbone's own format,
          pooled: :math:`y = h W_C` (Devlin et al. 2019, arXiv:1810.04805). The
          longer text is cut first.
        - The others read both texts one by one through the same backbone, a text that
          several pairs share only once (a bi-encoder, Reimers and Gurevych 2019,
          arXiv:1908.10084), and join their vectors: ``"concat"`` :math:`(h_a; h_b)`,
          ``"difference"`` :math:`h_a - h_b`, ``"product"`` :math:`h_a \circ h_b`, ``"all"``
          :math:`(h_a; h_b; |h_a - h_b|; h_a \circ h_b)`, or ``"attention"``, where the
          tokens of each text look up those of the other (Parikh et al. 2016,
          arXiv:1606.01933).
    symmetric : bool, default=False
        Whether logits are the mean over both orders, so that (a, b) and (b, a) are the same
        pair.
    {pooling}
    head : {"linear", "native"}, Linear, MLPHead or NativeHead, default="linear"
        What maps the vector of a pair to logits: ``"linear"`` is ``Linear(dropout=0.1)``,
        ``Linear(activation="relu")`` puts a ReLU before it, ``MLPHead()`` a hidden layer.
        ``"native"`` is the head that the backbone's family has in the transformers library,
        pooling included, for ``interaction="cross"``.
    head_init : {"probe", "random"}, default="probe"
        Start of the head's last layer. ``"probe"`` fits a regularised linear model on the
        vectors that the frozen backbone gives for at most 10,000 training pairs and takes its
        weights (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down to its held-out loss
        and by half again. ``"random"`` draws weights from N(0, 0.02) with zero bias.
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
    n_features_in_ : int
        2, only if X was a table.
    feature_names_in_ : ndarray of shape (2,)
        Only if X was a table with column names.

    See Also
    --------
    PairClassifier : Labels instead of numbers.
    sktransformers.metrics.pearson_scorer, sktransformers.metrics.spearman_scorer : Scorers.

    Examples
    --------
    >>> from sktransformers import PairRegressor
    >>> X = [("a dog runs", "a dog is running"), ("a dog runs", "a cat sleeps")] * 8
    >>> reg = PairRegressor(random_state=0).fit(X, [5.0, 1.0] * 8)  # doctest: +SKIP
    >>> reg.predict([("a horse jumps", "a horse is jumping")])  # doctest: +SKIP
    array([4.7])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PairEstimator._parameter_constraints,
        **NumberOutputs._parameter_constraints,
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        interaction="all",
        symmetric=False,
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
        self.interaction = interaction
        self.symmetric = symmetric
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

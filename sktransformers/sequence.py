"""Texts in, one label a text out."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions

from sktransformers.estimator import TransformerEstimator
from sktransformers.inputs.targets import (
    ClassCoding,
    Targets,
    check_labels,
    class_coding,
    find_classes,
)
from sktransformers.inputs.validation import as_texts
from sktransformers.modules.losses import CrossEntropy, count_correct
from sktransformers.modules.model import SequenceConfig, SequenceModel
from sktransformers.specs import DEFAULT_BACKBONE, Linear
from sktransformers.training.probe import logistic_probe


class TransformerSequenceClassifier(ClassifierMixin, TransformerEstimator):
    """Fine-tune a pretrained transformer to classify texts.

    The backbone turns the tokens of a text into vectors, pooling makes one vector h of
    them, and a linear head gives class probabilities :math:`y = softmax(h W_C + b)`; for
    CLS pooling :math:`h = h_{CLS}` (Devlin et al. 2019, arXiv:1810.04805, section 4.1).
    Backbone and head are trained together to minimise the weighted cross-entropy.

    Parameters
    ----------
    backbone : str, path, Backbone or PreTrainedModel, \
            default="sentence-transformers/all-MiniLM-L6-v2"
        Pretrained model: an id on the Hugging Face hub, a directory, or a `Backbone` where
        the name alone is not enough. The default (22 million parameters, English) comes
        from the package ``sktransformers[offline]`` when that is installed. A loaded
        ``PreTrainedModel`` is copied, also by ``clone``, and never trained in place.
    pooling : {"auto", "cls", "mean", "max", "last", "attention"}, default="auto"
        How token vectors become one. ``"auto"`` is what the backbone was trained with: the
        pooling of a sentence-transformers checkpoint, else the CLS token where the
        tokenizer has one, else the last token.
    head : {"linear"} or Linear, default="linear"
        What maps the pooled vector to logits. ``"linear"`` means ``Linear(dropout=0.1)``.
    head_init : {"probe", "random"}, default="probe"
        Start of the head. ``"probe"`` fits a regularised logistic regression on the frozen
        backbone's pooled vectors of at most 10,000 training texts and takes its weights
        (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down to its held-out loss and
        by half again. ``"random"`` draws weights from N(0, 0.02) with zero bias.
    lr : float, default=None
        Peak learning rate of the backbone. None means
        ``2e-4 * (384 / hidden_size) ** 2``, at least 1e-5 and at most 1e-3: 2e-4 for the
        default backbone, 5e-5 for one as wide as BERT-base. The value used is ``lr_``.
    max_epochs : int, default=3
        Passes over the training texts.
    batch_size : int, default=16
        Texts that the optimizer sees in a step.
    optimizer : {"adamw"} or AdamW, default="adamw"
        Optimizer; the object holds its options.
    schedule : {"linear", "cosine", "constant"}, default="linear"
        What the learning rate does after warm-up, until the last step.
    warmup : float in [0, 1) or int, default=0.1
        Steps in which the learning rate rises, as a share of all steps or a number.
    weight_decay : float, default=0.01
        Decoupled weight decay of everything but biases and normalisation weights.
    max_length : int, default=None
        Tokens of a text that are read, special tokens included; longer texts are cut, and
        a warning counts them. None means what the backbone can read, at most 512.
    max_batch_tokens : int, default=4096
        Token slots, padding included, that the device sees at once, in training and
        prediction. It bounds memory and never changes what the optimizer sees: a batch
        that needs more goes through in pieces whose gradients add up.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss and in the probe, on top of ``sample_weight``.
        ``"balanced"`` makes all classes weigh the same in sum.
    early_stopping : bool, default=False
        Whether to hold out a stratified part of the training texts, score it after every
        epoch, stop when it no longer improves, and keep the best epoch's weights.
        Texts given as ``X_val`` in ``fit`` are used in the same way.
    validation_fraction : float in (0, 1) or int, default=0.1
        Share or number of training texts to hold out with ``early_stopping=True``.
    n_iter_no_change : int, default=2
        Epochs in a row without an improvement of more than ``tol`` that end training.
    tol : float, default=1e-4
        See ``n_iter_no_change``.
    scoring : str, callable or None, default="loss"
        What is watched on the validation texts: the loss, or a scikit-learn scorer; None
        means ``score``.
    warm_start : bool, default=False
        Whether a further ``fit`` goes on from the fitted model, with a new optimizer and
        schedule. ``backbone``, ``pooling`` and ``head`` are then not looked at.
    callbacks : list of skorch callbacks, default=None
        Copied and run after the package's own.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` takes CUDA, else MPS (Apple), else the CPU.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Precision of the forward pass; weights stay as they are. ``"auto"`` is bf16 on CUDA
        devices that have it and fp32 elsewhere.
    random_state : int, RandomState instance or None, default=None
        Seed of dropout, the order of texts, held-out texts and a random head. The same
        seed gives the same model. Global random states are left as they were.
    verbose : int, default=0
        1 shows a progress bar, 2 also a line an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels; the order of the columns of ``predict_proba``.
    model_ : PreTrainedModel
        The fine-tuned model.
    tokenizer_ : transformers tokenizer
        The tokenizer, with truncation and padding off.
    history_ : list of dict
        One dict an epoch: ``epoch``, ``train_loss``, ``train_accuracy`` (over the epoch,
        with dropout on), with validation texts ``valid_loss``, ``valid_accuracy`` and for a
        scorer ``valid_score``, ``grad_norm`` (mean, before clipping), ``lr`` (at the
        last step), ``seconds``, ``tokens_per_second`` (without padding). Batches are kept
        with ``callbacks=[BatchHistory()]``.
    n_iter_ : int
        Epochs trained.
    lr_ : float
        Peak learning rate that was used.
    max_length_ : int
        Length that texts are cut to.
    net_ : skorch.NeuralNet
        The net that trained; not part of pickles.
    n_features_in_ : int
        1, only if X was a table.
    feature_names_in_ : ndarray of shape (1,)
        Only if X was a table with a column name.

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

    _criterion = CrossEntropy
    _metrics: ClassVar = {"accuracy": count_correct}
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TransformerEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        pooling="auto",
        head="linear",
        head_init="probe",
        lr=None,
        max_epochs=3,
        batch_size=16,
        optimizer="adamw",
        schedule="linear",
        warmup=0.1,
        weight_decay=0.01,
        max_length=None,
        max_batch_tokens=4096,
        class_weight=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=2,
        tol=1e-4,
        scoring="loss",
        warm_start=False,
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
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_length = max_length
        self.max_batch_tokens = max_batch_tokens
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.scoring = scoring
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    # -------------------------------------------------------------- predict

    def decision_function(self, X):
        """Logits of each text.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes the logit of ``classes_[1]`` less that of ``classes_[0]``.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts.

        Returns
        -------
        proba : ndarray of float64 and shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to one.
        """
        proba = self._logits(X)
        # In place: beyond the result, memory must not grow with the number of texts.
        proba -= proba.max(axis=1, keepdims=True)
        np.exp(proba, out=proba)
        proba /= proba.sum(axis=1, keepdims=True)
        return proba

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts.

        Returns
        -------
        log_proba : ndarray of float64 and shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        logits = self._logits(X)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def predict(self, X):
        """Most probable class of each text.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            In the type that the labels had in ``fit``.
        """
        best = self._logits(X).argmax(axis=1)  # first: it says whether this is fitted
        return self.classes_[best]

    # ------------------------------------------------------------ the task

    def _check_X(self, X: Any, name: str = "X") -> Sequence[str]:
        return as_texts(X, name)

    def _check_y(self, y: Any, n_samples: int, name: str = "y") -> np.ndarray:
        return check_labels(y, n_samples, type(self).__name__, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> ClassCoding:
        classes = find_classes(y) if earlier is None else earlier.classes_
        return class_coding(classes, self.class_weight, y, weights)

    def _make_model(
        self, backbone: Any, pooling: str, head: Linear, coding: ClassCoding
    ) -> SequenceModel:
        config = SequenceConfig(
            backbone_config=backbone.config,
            pooling=pooling,
            head_dropout=head.dropout,
            id2label=dict(enumerate(coding.names)),
            label2id={name: i for i, name in enumerate(coding.names)},
        )
        return SequenceModel(config, backbone)

    def _fit_probe(
        self,
        vectors: np.ndarray,
        targets: Targets,
        coding: ClassCoding,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        n_classes = len(coding.classes)
        return logistic_probe(vectors, targets.values, targets.weights, n_classes, rng)

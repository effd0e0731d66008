"""Continue the pretraining of a backbone on the user's own texts."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransformers._docs import shared_docs
from sktransformers.concurrency import of_one_fit
from sktransformers.course import Course, Data, Options, Redraw
from sktransformers.estimator import TransformerEstimator, with_callbacks
from sktransformers.inference.accelerate import Engine
from sktransformers.inference.likelihood import mean_loss
from sktransformers.inputs.batching import Encoded
from sktransformers.inputs.encoding import private_tokenizer, users_level
from sktransformers.inputs.masking import (
    BlockEncoder,
    Masking,
    TokenTargets,
    Unlabelled,
    next_tokens,
)
from sktransformers.inputs.targets import Targets
from sktransformers.inputs.validation import as_texts
from sktransformers.modules import losses
from sktransformers.modules.masked import AdaptedConfig, AdaptedModel
from sktransformers.specs import DEFAULT_BACKBONE, BitFit, LoRA
from sktransformers.training import loading, runtime
from sktransformers.training.adaptation import load_adaptable, sentence_files
from sktransformers.training.moments import Moments
from sktransformers.training.net import FineTuningNet
from sktransformers.training.strategies import Strategy

_NOT_HERE = (
    *("head", "head_init", "long_text", "augment", "scoring", "replay", "memory"),
    "finetune",  # another below
)
# Of the training texts, whose perplexity is measured where there are no validation texts.
_MEASURED_CHARACTERS = 2**17


@shared_docs
class MaskedLMAdapter(TransformerEstimator):
    r"""Continue the pretraining of a backbone on texts without labels.

    Adapted to the texts of a domain or of a task, a backbone is often a better start for the
    few labels that there are (Gururangan et al. 2020, arXiv:2004.10964). Of the tokens of a block
    a share M is hidden anew in every epoch, and training minimises

    .. math::

        L = -\frac{1}{|M|} \sum_{i \in M} \log p(x_i | \tilde x),

    where of the tokens in M 80 % are replaced by the mask token, 10 % by a random one, and 10 %
    stay as they are (Devlin et al. 2019, arXiv:1810.04805, section 3.1; the masks that change
    are those of Liu et al. 2019, arXiv:1907.11692, section 4.1). A decoder goes on as it was
    pretrained instead: each token is predicted from those before it, and nothing is hidden.

    Parameters
    ----------
    {backbone}
        An encoder or a decoder. Where its files have no head that predicts tokens, a new one of
        its family is put on it, whose last layer is tied to the input embedding, and a
        ``UserWarning`` says so.
    mask_probability : float in (0, 1), default=0.15
        Share of the tokens of a block that is predicted, at least one; special and unknown tokens
        are not. A decoder has no use for it.
    whole_word : bool, default=False
        Whether the tokens of a word are hidden together, as many words as come nearest to the
        share. Only for masks, and with a fast tokenizer.
    finetune : "full", int, LoRA or BitFit, default="full"
        What is trained: everything; the top n blocks of the backbone and what is above them;
        low-rank adapters, which are merged in the end; biases. A new head is trained in any case.
    {optimisation}
    max_length : int, default=None
        Tokens of a block, special tokens included. None means 128, or what the backbone can read
        if that is less. Texts are put into blocks one after the other, with a separator between
        two texts and attention across it. Longer blocks show more of long texts, but the same
        texts then make fewer of them, and fewer steps.
    max_batch_tokens : int, default=4096
        Token slots that the device sees at once. It bounds memory and never changes what the
        optimizer sees. What runs out of memory goes on with half of it, and a warning.
    early_stopping : bool, default=False
        Whether to hold out a part of the texts, score it after every epoch, stop when its loss no
        longer falls, and keep the best epoch's weights. Texts given as ``X_val`` in ``fit``
        are used in the same way. Their masks are always the same.
    validation_fraction : float in (0, 1) or int, default=0.1
        Share or number of texts to hold out with ``early_stopping=True``.
    n_iter_no_change : int, default=2
        Epochs in a row without an improvement of more than ``tol`` that end training.
    tol : float, default=1e-4
        See ``n_iter_no_change``.
    warm_start : bool, default=False
        Whether a further ``fit`` goes on from the fitted model and the state of its optimizer,
        with a new schedule.
    checkpoint : str, path, Checkpoint or None, default=None
        Directory in which the state of training is kept after every epoch. A ``fit`` with the
        same texts and parameters goes on from there and says so. `Checkpoint` holds options.
    callbacks : list of skorch callbacks, default=None
        Copied and run after the package's own.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` takes CUDA, else MPS (Apple), else the CPU.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        As in `TransformerSequenceClassifier`.
    random_state : int, RandomState instance or None, default=None
        Seed of masks, dropout, the order of blocks, held-out texts and a new head. The same seed
        gives the same model. Global random states are left as they were.
    verbose : int, default=0
        1 shows a progress bar, 2 also a line an epoch.

    Attributes
    ----------
    backbone_ : PreTrainedModel
        The adapted backbone without the head, to be passed as ``backbone`` to any estimator.
    perplexity_ : ndarray of shape (2,)
        Before and after training: of the validation texts, or without them of some of the
        training texts. With the same masks both times.
    {attributes}

    See Also
    --------
    TransformerSequenceClassifier : Takes the result.

    Notes
    -----
    The rows of the net are blocks: ``batch_size`` counts them, not texts, and ``max_length_`` is
    their length; no text is cut. ``train_accuracy`` in ``history_`` is the share of the predicted
    tokens that were right.

    Examples
    --------
    >>> from sktransformers import MaskedLMAdapter, TransformerSequenceClassifier
    >>> texts = ["what a lovely evening", "two hours I will never get back"] * 50
    >>> adapter = MaskedLMAdapter(random_state=0).fit(texts)  # doctest: +SKIP
    >>> adapter.save("my-backbone")  # doctest: +SKIP
    >>> clf = TransformerSequenceClassifier("my-backbone").fit(X, y)  # doctest: +SKIP
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in TransformerEstimator._parameter_constraints.items()
            if name not in _NOT_HERE
        },
        "mask_probability": [Interval(Real, 0, 1, closed="neither")],
        "whole_word": ["boolean"],
        "finetune": [
            StrOptions({"full"}),
            Interval(Integral, 1, None, closed="left"),
            LoRA,
            BitFit,
        ],
    }
    _keeps_frozen = False
    # More steps for the same texts than with longer blocks, and less time for attention.
    _max_default_length = 128
    head = None
    head_init = "random"
    long_text = "truncate"
    augment = None
    scoring = "loss"
    replay = None
    memory = None

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        mask_probability=0.15,
        whole_word=False,
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
        max_batch_tokens=4096,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=2,
        tol=1e-4,
        warm_start=False,
        checkpoint=None,
        callbacks=None,
        device="auto",
        precision="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.mask_probability = mask_probability
        self.whole_word = whole_word
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
        self.max_batch_tokens = max_batch_tokens
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, X_val=None):
        """Continue the pretraining on texts.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts, in a list, tuple, array, Series or table of one column. Their order is that in
            the blocks: paragraphs of a document belong one after the other.
        y : Ignored
            For pipelines.
        X_val : array-like, default=None
            Validation texts, used as with ``early_stopping=True`` instead of a part of X.

        Returns
        -------
        self : MaskedLMAdapter
            The fitted adapter.

        Raises
        ------
        ValueError
            If a parameter or X is not as described, all texts are empty, no backbone can be
            loaded, it is an encoder-decoder, or its tokenizer has no mask token.
        FloatingPointError, KeyboardInterrupt
            If the loss is no number, and after Ctrl-C. The estimator is left fitted with the best
            weights so far, unless no step was made.
        """
        return self._fit(X, y, None, X_val)

    def find_lr(  # type: ignore[override]
        self, X, y=None, *, lr_min=1e-7, lr_max=1.0, n_steps=100
    ):
        """Learning rate range test (Smith 2017, arXiv:1506.01186) on texts.

        Parameters
        ----------
        X, y : array-like
            As in ``fit``.
        lr_min, lr_max : float, default=1e-7, 1.0
            Learning rate of the backbone in the first and in the last step.
        n_steps : int, default=100
            Number of steps.

        Returns
        -------
        curve : LearningRateCurve
            As of the other estimators: ``curve.suggestion`` is a rate, ``curve.plot()`` draws.
        """
        return super().find_lr(X, y, lr_min=lr_min, lr_max=lr_max, n_steps=n_steps)

    @of_one_fit
    def perplexity(self, X, random_state=0):
        r"""Perplexity of texts, :math:`\exp(-\frac1n \sum_i \log p_i)`.

        With masks, p is that of the hidden tokens; the texts are put into blocks and masked as in
        training. Of a decoder it is that of every token behind the first, in each text by
        itself; texts that are longer than ``max_length_`` are read in windows that overlap by
        half, and each token is predicted once.

        Parameters
        ----------
        X : array-like
            Texts, as in ``fit``.
        random_state : int or RandomState instance, default=0
            Seed of the masks. Figures can be compared where it is the same.

        Returns
        -------
        perplexity : float
            From 1, where nothing is uncertain; as large as the vocabulary for blind guesses.

        Raises
        ------
        ValueError
            If X is not as described, or no token is predicted in it.
        """
        return _exp(self._loss_of(self._fitted_rows(X), runtime.resolve_seed(random_state)))

    @of_one_fit
    def score(self, X, y=None):
        """Mean log-probability of the predicted tokens, the logarithm of 1 / ``perplexity``.

        Parameters
        ----------
        X : array-like
            Texts, as in ``fit``.
        y : Ignored
            For pipelines and searches.

        Returns
        -------
        score : float
            The larger, the better.
        """
        return -self._loss_of(self._fitted_rows(X), 0)

    @property
    def backbone_(self):
        """The adapted backbone without the head; whoever trains it copies it before."""
        check_is_fitted(self)
        return self.model_.native.base_model

    def save_pretrained(self, path, *, weights="full", **options):
        """Write the adapted model as a directory, all of it or nothing.

        Everything that takes the name of a backbone takes this path, estimators as well as
        ``transformers.AutoModel.from_pretrained``: it holds ``config.json``,
        ``model.safetensors``, the tokenizer and, of a sentence-transformers checkpoint, what it
        says of its pooling. The head that predicts tokens is in it too, for a further
        `MaskedLMAdapter`. `sktransformers.load` gives the adapter back.

        Parameters
        ----------
        path : str or path-like
            The directory. It appears when all is written. One that an earlier call wrote is
            replaced.
        weights : {"auto", "full", "delta"}, default="full"
            All weights, for which ``"auto"`` stands too, with low-rank adapters merged; or only
            the tensors that differ from those of the pretrained backbone, which `load` needs
            then, and no other reader.
        **options
            ``format``, ``drop``, ``overwrite`` and ``scores``, as of the other estimators.

        Raises
        ------
        FileExistsError, NotFittedError, TypeError, ValueError
            As the other estimators do.
        """
        weights = "full" if weights == "auto" else weights
        super().save_pretrained(path, weights=weights, **options)

    def _saved_files(self) -> dict[str, Any]:
        return self._files

    def _set_saved_attributes(self, found: dict[str, Any], folder: Path) -> None:
        super()._set_saved_attributes(found, folder)
        self._files = sentence_files(folder)

    def _loss_of(self, rows: Sequence[str], seed: int) -> float:
        """Mean loss of the tokens that are predicted in texts."""
        model = self.model_
        encoder = self._make_encoder(model, self.tokenizer_, self.max_length_)
        if model.config.is_causal:
            encoded, targets = encoder.encode_alone(rows)
        else:
            masking = Masking(self.tokenizer_, self.mask_probability)
            encoded, targets = masking.draw(
                encoder.encode(rows).encoded, np.random.default_rng(seed)
            )
        if len(targets.flat) == 0:
            raise ValueError(
                f"There is no token to predict in X ({len(rows)} texts): all of them are empty, "
                f"unknown to the tokenizer, or too short."
            )
        return mean_loss(model, encoded, targets, self._predictor(model, encoder.pad_id))

    # ------------------------------------------------------------ the task

    def _check_X(self, X: Any, name: str = "X") -> Sequence[str]:
        texts = as_texts(X, name)
        if not any(text.strip() for text in texts):
            raise ValueError(
                f"All {len(texts)} texts of {name} are empty: at least one must have words."
            )
        return texts

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return np.zeros(len(rows))

    def _given_validation(self, X_val: Any, y_val: Any, coding: Any) -> Data | None:
        return super()._given_validation(X_val, X_val, coding)  # which stands for no y

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> Unlabelled:
        return Unlabelled()

    def _head(self) -> None:
        """That of the family."""

    def _loss(self) -> None:
        """The cross-entropy."""

    def _build(self, options: Options, coding: Any) -> dict[str, Any]:
        found = load_adaptable(options.backbone, verbose=bool(self.verbose))
        tokenizer = private_tokenizer(found.loaded.tokenizer)
        name = loading.label(options.backbone)
        if found.is_causal and self.whole_word:
            raise ValueError(
                f"whole_word=True and backbone={name} contradict each other: a decoder predicts "
                f"each token from those before it, and nothing is masked."
            )
        if found.is_causal and self.verbose:
            print(f"{name} is a decoder: mask_probability is not used.")
        if not found.is_causal:
            Masking(tokenizer, self.mask_probability)  # before long work
        if found.has_new_head:
            warnings.warn(
                f"{name} has no trained head that predicts tokens: a new one, tied to the input "
                f"embedding, learns from these texts alone, and perplexities begin far up.",
                UserWarning,
                stacklevel=users_level(),
            )
        native = found.loaded.native
        config = AdaptedConfig(
            is_causal=found.is_causal,
            has_new_head=found.has_new_head,
            backbone_config=native.config,
        )
        return {
            "model_": AdaptedModel(config, native),
            "tokenizer_": tokenizer,
            "max_length_": self._resolve_max_length(found.loaded),
            "_files": found.files,
        }

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> BlockEncoder:
        return BlockEncoder(tokenizer, max_length, model.config.is_causal, self.whole_word)

    def _with_answers(
        self, encoded: Encoded, targets: Targets, fitted: dict[str, Any]
    ) -> tuple[Encoded, Targets]:
        if len(encoded) == 0:
            raise ValueError("There is no token in the texts: to the tokenizer all are empty.")
        if fitted["model_"].config.is_causal:
            shown, values = next_tokens(encoded)
        else:  # the same masks in every epoch for validation; those of training are drawn below
            masking = Masking(fitted["tokenizer_"], self.mask_probability)
            shown, values = masking.draw(encoded, np.random.default_rng(0))
        if len(values.flat) == 0:
            raise ValueError(
                "There is no token to predict in the texts: all are special or unknown ones."
            )
        return shown, TokenTargets.of(values, encoded)

    def _redraw(
        self,
        options: Options,
        fitted: dict[str, Any],
        encoder: Any,
        train: Data,
        rng: np.random.Generator,
    ) -> Redraw | None:
        if fitted["model_"].config.is_causal:
            return None
        masking = Masking(fitted["tokenizer_"], self.mask_probability)
        assert isinstance(train.targets, TokenTargets)
        # Its own generator: the order of blocks does not hang on their masks.
        blocks, masks = train.targets.blocks, rng.spawn(1)[0]

        def redraw() -> tuple[Encoded, Targets]:
            shown, values = masking.draw(blocks, masks)
            return shown, TokenTargets.of(values, blocks)

        return Redraw(redraw, masks)

    def _needs_all_rows(self, model: Any) -> bool:
        # Masks bring tokens that do not occur.
        return super()._needs_all_rows(model) or not model.config.is_causal

    def _places(self, train: Data) -> None:
        """Blocks are of several texts."""

    def _objective(
        self, model: Any, loss: Any, coding: Any
    ) -> tuple[torch.nn.Module, dict[str, Callable[..., Any]]]:
        return losses.CrossEntropy(), {"accuracy": losses.count_correct}

    def _train(
        self,
        options: Options,
        course: Course,
        fitted: dict[str, Any],
        strategy: Strategy,
        train: Data,
        validation: Data | None,
        *others: Any,
    ) -> tuple[FineTuningNet, Moments]:
        fitted["model_"].to(options.device)
        before = self._measured(fitted, train, validation)
        fitted["perplexity_"] = np.array([before, np.nan])
        return super()._train(options, course, fitted, strategy, train, validation, *others)

    def _after_training(
        self, fitted: dict[str, Any], train: Data, validation: Data | None, coding: Any
    ) -> dict[str, Any]:
        found = fitted["perplexity_"]
        found[1] = self._measured(fitted, train, validation)
        if self.verbose:
            print(f"Perplexity {found[0]:.1f} before training, {found[1]:.1f} after.")
        return {}

    def _measured(self, fitted: dict[str, Any], train: Data, validation: Data | None) -> float:
        """Perplexity of the validation texts, or of some training texts."""
        view = copy.copy(self)
        view.__dict__.update(fitted)
        view.model_.eval()
        rows = _some(train.rows) if validation is None else validation.rows
        try:
            return _exp(view._loss_of(rows, 0))
        except ValueError:
            if validation is not None:
                raise
            return math.nan  # nothing in these few: training looks at all of them

    @classmethod
    def _from_checkpoint(cls, name: Any, **params: Any) -> Any:
        """Not for this class: a checkpoint is the parameter ``backbone``, and ``fit`` adapts it."""
        raise ValueError(
            f"from_pretrained is for checkpoints that predict as they are: {cls.__name__}({name!r})"
            f".fit(texts) goes on with the pretraining of one."
        )

    def _make_engine(self, backend: str) -> Engine:
        raise ValueError(
            "accelerate is for estimators that predict. Pass the adapted backbone to one of them."
        )


def _exp(loss: float) -> float:
    """What math.exp gives where it can; training that has diverged is no reason to lose it."""
    return math.exp(loss) if not loss > 700 else math.inf


def _some(texts: Sequence[str]) -> list[str]:
    """Texts from all over, of a bounded number of characters."""
    texts = [text for text in texts if text.strip()]
    total = sum(map(len, texts))
    n = max(1, min(len(texts), len(texts) * _MEASURED_CHARACTERS // total))
    places = np.unique(np.linspace(0, len(texts) - 1, n).astype(int))
    return [texts[i][:_MEASURED_CHARACTERS] for i in places]

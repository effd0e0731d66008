"""Sentences of words in, one tag a word out."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransformers._docs import shared_docs
from sktransformers.concurrency import of_one_fit
from sktransformers.course import Data, Options
from sktransformers.estimator import TransformerEstimator
from sktransformers.fitted import chunks
from sktransformers.inputs.constraints import forbidden, scheme_of
from sktransformers.inputs.encoding import Counts, users_level
from sktransformers.inputs.tags import (
    TagCoding,
    check_tags,
    find_tags,
    first_forbidden,
    positions,
)
from sktransformers.inputs.targets import check_more_classes, class_coding
from sktransformers.inputs.validation import check_shape
from sktransformers.inputs.word_encoding import WordEncoder
from sktransformers.inputs.words import Sentences, as_sentences
from sktransformers.metrics import span_f1_score, spans, word_accuracy_score
from sktransformers.modules import crf, losses
from sktransformers.modules.attention import looks_ahead
from sktransformers.modules.model import TaggingConfig, TaggingModel
from sktransformers.modules.native import NativeTaggingModel
from sktransformers.partial import GrowingClasses
from sktransformers.specs import (
    CRF,
    DEFAULT_BACKBONE,
    HEADS,
    TAG_LOSSES,
    WINDOWS,
    CrossEntropy,
    FocalLoss,
    Linear,
    MLPHead,
    NativeHead,
    Windows,
    named,
)
from sktransformers.training.probe import logistic_probe


class Span(NamedTuple):
    """A span of words that belong together.

    Parameters
    ----------
    start, end : int
        Position of its first word, and of the word behind its last.
    type : str
        What follows the dash in its tags.
    score : float
        Mean probability of the predicted tags of its words.
    char_start, char_end : int or None
        Where it begins and ends in the text, if X held texts.
    """

    start: int
    end: int
    type: str
    score: float
    char_start: int | None = None
    char_end: int | None = None


@shared_docs
class TokenTagger(GrowingClasses, TransformerEstimator):
    """Fine-tune a pretrained transformer to tag the words of sentences.

    For named entities, parts of speech, anything that every word of a sentence has one of.
    The backbone turns the pieces of a word into vectors, ``subword`` makes one vector h_i of
    them, and the head gives the probabilities of its tags, :math:`y_i = softmax(h_i W_K + b)`
    (Devlin et al. 2019, arXiv:1810.04805, section 5.3). With a CRF the tags of a sentence are
    scored together (Lafferty et al. 2001).

    Every word gets a tag: a sentence that is longer than ``max_length`` tokens is read in
    overlapping windows, and each word in the one that shows most of its context.

    Parameters
    ----------
    {backbone}
    tokenize : {"whitespace", "regex"}, callable or None, default=None
        How rows of X are split into words. None: they are lists of words. Otherwise they are
        texts: split at white space, into words and single punctuation marks, or by a function
        of one text that returns its words or the ``(start, end)`` of each.
    subword : {"first", "mean", "last", "max"}, default="first"
        Which of a word's pieces stands for it: the first, the last, or their mean or maximum.
    self_attention : bool, default=False
        Whether one more layer of self-attention stands between backbone and head.
    head : {"linear", "native"}, Linear, MLPHead, NativeHead or CRF, default="linear"
        What maps the vector of a word to logits. ``"linear"`` means ``Linear(dropout=0.1)``;
        ``"native"`` is the head that the backbone's family has in the transformers library.
    crf : bool or "auto", default="auto"
        Whether the tags of a sentence are scored together; True is short for
        ``head=CRF(constraints="auto")``. ``"auto"`` does so where the tags mark spans (BIO,
        BIOES), if ``head`` and ``loss`` are left as they are.
    head_init : {"probe", "random"}, default="probe"
        Start of the head's last layer. ``"probe"`` fits a regularised logistic regression on
        the vectors that the frozen backbone gives for about 10,000 training words and takes
        its weights (LP-FT, Kumar et al. 2022, arXiv:2202.10054), scaled down to its held-out
        loss and by half again. ``"random"`` draws weights from N(0, 0.02) with zero bias.
    loss : {"auto", "cross_entropy", "focal"}, CrossEntropy or FocalLoss, default="auto"
        What training minimises. ``"auto"`` is the cross-entropy of each word's tag or, with a
        CRF, that of the whole sequence of tags, beside which there is no other; the objects hold
        options such as label smoothing.
    {finetune}
    {optimisation}
    max_length : int, default=None
        Tokens that the backbone reads at once, special tokens included. None means what it
        can read, at most 512.
    long_text : {"window"} or Windows, default="window"
        Longer sentences are read in windows; ``Windows(stride=...)`` says how many tokens
        lie between their starts, half a window by default.
    {max_batch_tokens}
    class_weight : dict, "balanced" or None, default=None
        Weight of each tag in the loss and in the probe, on top of ``sample_weight``. With a
        CRF a sentence has the mean weight of its words. ``"balanced"`` makes all tags weigh
        the same in sum.
    {training}

    Attributes
    ----------
    classes_ : ndarray of shape (n_tags,)
        Sorted tags; the order of the columns of ``predict_proba``.
    metric_ : {"span_f1", "accuracy"}
        What ``score`` returns: span F1 if the tags mark spans (BIO, BIOES), else accuracy.
    {attributes}

    Notes
    -----
    The loss is an average over words, not over sentences. A tagger is no ``ClassifierMixin``:
    scikit-learn's stratified splits cannot read lists of tags, so that an integer ``cv`` means
    ``KFold``.

    See Also
    --------
    sktransformers.metrics.span_f1_scorer : For ``GridSearchCV(scoring=...)``.
    sktransformers.CRF : Options of the CRF.

    Examples
    --------
    >>> from sktransformers import TokenTagger
    >>> X = [["Ana", "lives", "in", "Porto"], ["Porto", "is", "old"]] * 8
    >>> y = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"]] * 8
    >>> tagger = TokenTagger(random_state=0).fit(X, y)  # doctest: +SKIP
    >>> tagger.predict([["Ana", "is", "old"]])  # doctest: +SKIP
    array([list(['B-PER', 'O', 'O'])], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TransformerEstimator._parameter_constraints,
        "tokenize": [StrOptions({"whitespace", "regex"}), callable, None],
        "subword": [StrOptions({"first", "mean", "last", "max"})],
        "self_attention": ["boolean"],
        "head": [StrOptions(set(HEADS)), Linear, MLPHead, NativeHead, CRF],
        "loss": [StrOptions({"auto", *TAG_LOSSES}), *TAG_LOSSES.values()],
        "crf": ["boolean", StrOptions({"auto"})],
        "long_text": [StrOptions({"window"}), Windows],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _native_model = NativeTaggingModel
    _reads_words = True
    _native_choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "subword": ("first", "last"),
        "self_attention": (False,),
        "crf": ("auto", False),
    }

    def __init__(
        self,
        backbone=DEFAULT_BACKBONE,
        *,
        tokenize=None,
        subword="first",
        self_attention=False,
        head="linear",
        crf="auto",
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
        long_text="window",
        max_batch_tokens=4096,
        augment=None,
        class_weight=None,
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
        self.tokenize = tokenize
        self.subword = subword
        self.self_attention = self_attention
        self.head = head
        self.crf = crf
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
        """Tag of each word: the most probable one, or with a CRF the best sequence.

        Parameters
        ----------
        X : array-like of shape (n_sentences,)
            Lists of words, or texts where ``tokenize`` says how to split them.

        Returns
        -------
        tags : ndarray of object and shape (n_sentences,)
            Lists with one tag a word, in the type that the tags had in ``fit``.
        """
        return self._tags(self._sentences(X))

    @of_one_fit
    def predict_proba(self, X):
        """Probability of each tag for each word; with a CRF, its marginal probability.

        Parameters
        ----------
        X : array-like of shape (n_sentences,)
            Sentences, as in ``predict``.

        Returns
        -------
        proba : ndarray of object and shape (n_sentences,)
            Arrays of float64 and shape (n_words, n_tags), columns in the order of
            ``classes_``; rows sum to one.
        """
        sentences = self._sentences(X)
        proba = self._proba(sentences, self._word_logits(sentences))
        cuts = np.cumsum([len(words) for words in sentences.words])[:-1]
        return _objects(np.split(proba, cuts))

    @of_one_fit
    def predict_spans(self, X):
        """Spans that the predicted tags mark.

        Tags are read as seqeval and `sktransformers.metrics` read them. Tags that mark no
        spans (parts of speech) give one span for each run of words with equal tags.

        Parameters
        ----------
        X : array-like of shape (n_sentences,)
            Sentences, as in ``predict``.

        Returns
        -------
        spans : list of list of Span
            Spans of each sentence: ``start``, ``end``, ``type``, ``score``, and for texts
            ``char_start`` and ``char_end``.
        """
        sentences = self._sentences(X)
        codes, logits = self._best(sentences)
        proba = self._proba(sentences, logits)[np.arange(len(codes)), codes]
        found, begin = [], 0
        for i, words in enumerate(sentences.words):
            part = slice(begin, begin + len(words))
            tags, scores = self.classes_[codes[part]].tolist(), proba[part]
            offsets = None if sentences.offsets is None else sentences.offsets[i]
            found.append(
                [
                    Span(
                        start,
                        end,
                        kind,
                        float(scores[start:end].mean()),
                        None if offsets is None else offsets[start][0],
                        None if offsets is None else offsets[end - 1][1],
                    )
                    for start, end, kind in self._spans(tags)
                ]
            )
            begin += len(words)
        return found

    @of_one_fit
    def score_sequences(self, X, y):
        """Log-likelihood of tag sequences.

        Parameters
        ----------
        X : array-like of shape (n_sentences,)
            Sentences, as in ``predict``.
        y : array-like of shape (n_sentences,)
            Lists of tags.

        Returns
        -------
        log_likelihood : ndarray of shape (n_sentences,)
            Natural logarithm of the probability of each tag sequence; 0 for an empty one. A
            sequence that the constraints of a CRF forbid has minus infinity.

        Raises
        ------
        ValueError
            If a tag was not seen in ``fit``.
        """
        sentences = self._sentences(X)
        codes = positions(check_tags(y, sentences.words), self.classes_, "y")
        logits = self._word_logits(sentences)
        if not self.model_.config.crf:
            chosen = log_softmax(logits, axis=1)[np.arange(len(logits)), codes]
            ends = np.cumsum([0, *map(len, sentences.words)])
            return np.diff(np.cumsum([0.0, *chosen])[ends])
        with torch.inference_mode():
            output = self._crf_output(sentences, logits)
            flat = torch.from_numpy(codes)
            likelihood = crf.log_likelihood(output, flat)
            likelihood[~crf.legal(output, flat, output.lengths)] = -torch.inf
        return likelihood.numpy()

    @of_one_fit
    def score(self, X, y):
        """Micro-averaged span F1 if the tags mark spans, else the accuracy over words.

        ``metric_`` says which.

        Parameters
        ----------
        X : array-like of shape (n_sentences,)
            Sentences, as in ``predict``.
        y : array-like of shape (n_sentences,)
            Lists of tags.

        Returns
        -------
        score : float

        Raises
        ------
        ValueError
            If a tag was not seen in ``fit``; ``metrics.span_f1_scorer`` takes any.
        """
        sentences = self._sentences(X)
        tags = check_tags(y, sentences.words)
        positions(tags, self.classes_, "y")  # an error where a tag is not known
        metric = span_f1_score if self.metric_ == "span_f1" else word_accuracy_score
        return metric(tags, self._tags(sentences))

    def _sentences(self, X: Any) -> Sentences:
        check_is_fitted(self)
        sentences = as_sentences(X, self.tokenize)
        self._check_features(X)
        return sentences

    def _word_logits(self, sentences: Sentences) -> np.ndarray:
        """Logits of shape (n_words, n_tags) in float64, all sentences one after the other."""
        model = self._running
        encoder = self._make_encoder(self.model_, self.tokenizer_, self.max_length_)
        predictor = self._predictor(self.model_, encoder.pad_id)
        parts, counts = [np.empty((0, model.config.num_labels))], []
        for part in chunks(len(sentences.words)):
            encoded, counted = encoder.encode(sentences.words[part])
            counts.append(counted)
            if len(encoded.sequences):
                parts.append(predictor.rows(model.encode, None, encoded, model.unit))
        Counts.total(counts).warn(self.max_length_)
        return np.concatenate(parts).astype(np.float64)

    def _crf_output(self, sentences: Sentences, logits: np.ndarray) -> crf.CRFOutput:
        lengths = torch.tensor([len(words) for words in sentences.words])
        layer = copy.deepcopy(self.model_.crf).cpu()  # a few numbers
        return layer(torch.from_numpy(logits), lengths)

    def _tags(self, sentences: Sentences) -> np.ndarray:
        """Lists with one tag a word."""
        codes, _ = self._best(sentences)
        return _lists(self.classes_[codes].tolist(), sentences.words)

    def _best(self, sentences: Sentences) -> tuple[np.ndarray, np.ndarray]:
        """Position of the tag of each word, and the logits."""
        logits = self._word_logits(sentences)
        if not self.model_.config.crf:
            return logits.argmax(axis=1), logits
        with torch.inference_mode():
            return crf.viterbi(self._crf_output(sentences, logits)).numpy(), logits

    def _proba(self, sentences: Sentences, logits: np.ndarray) -> np.ndarray:
        if not self.model_.config.crf:
            return softmax(logits, axis=1)
        with torch.inference_mode():
            return crf.marginals(self._crf_output(sentences, logits)).numpy()

    # ------------------------------------------------------------ the task

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _head(self) -> Any:
        if isinstance(self.crf, str):
            return named(self.head, HEADS)
        if self.crf and self.head == "linear":
            return CRF()
        if bool(self.crf) != isinstance(self.head, CRF):
            raise ValueError(
                f"crf={self.crf} and head={self.head!r} contradict each other: crf=True is "
                f"short for head=CRF()."
            )
        return named(self.head, HEADS)

    def _check_options(self) -> Any:
        options = super()._check_options()
        if named(self.long_text, WINDOWS).max_windows is not None:
            raise ValueError(
                "long_text: Windows(max_windows=...) would leave words of a long sentence "
                "without a tag; a TokenTagger reads all windows."
            )
        if isinstance(options.loss, CrossEntropy) and options.loss.classes is not None:
            raise ValueError(
                "loss=CrossEntropy(classes=...) is for a matrix of probabilities, but y of a "
                "TokenTagger holds lists of tags; leave classes out."
            )
        if isinstance(options.head, CRF):
            self._require_own_loss()
        return options

    def _require_own_loss(self) -> None:
        if self.loss != "auto":
            raise ValueError(
                f"loss={self.loss!r} scores tags one by one, but a CRF (crf={self.crf!r}, "
                f"head={self.head!r}) scores those of a sentence together and has a loss of its "
                f'own: leave loss="auto", or pass crf=False and another head.'
            )

    def _check_X(self, X: Any, name: str = "X") -> Sequence[list[str]]:
        return as_sentences(X, self.tokenize, name).words

    def _check_features(self, X: Any, reset: bool = False) -> None:
        # An array of sentences that are equally long is no table of features.
        super()._check_features(None if self.tokenize is None else X, reset)

    def _given_validation(self, X_val: Any, y_val: Any, coding: TagCoding) -> Data | None:
        data = super()._given_validation(X_val, y_val, coding)
        if data is None:
            return None
        # For the loss: a batch of empty sentences alone is nothing that a backbone can read.
        kept = np.flatnonzero(data.targets.sizes)
        rows = [row for row in data.rows if row]
        return replace(data, rows=rows, targets=data.targets.take(kept))

    def _check_y(self, y: Any, rows: Sequence[list[str]], name: str = "y") -> np.ndarray:
        return check_tags(y, rows, name, type(self).__name__)

    def _make_coding(
        self, y: np.ndarray, weights: np.ndarray, earlier: Any, classes: Any = None
    ) -> TagCoding:
        known = None if earlier is None else earlier.classes_
        if classes is not None:
            known = check_more_classes(classes, known, columns=False)
        tags = find_tags(y) if known is None else known
        lengths = np.array([len(row) for row in y])
        codes = positions(y, tags, "y")
        factors = class_coding(
            tags, self.class_weight, tags[codes], np.repeat(weights, lengths)
        ).factors
        if earlier is not None:
            model = earlier.model_
            if model.config.crf:
                self._require_own_loss()
            masks = _constraints(model)
            if masks is not None and len(tags) > model.config.num_labels:
                scheme = getattr(self._head(), "constraints", "auto")
                scheme = scheme_of(tags.tolist()) if scheme == "auto" else scheme
                masks = None if scheme is None else forbidden(tags.tolist(), scheme)
            return TagCoding(tags, factors, model.config.crf, masks)
        scheme = scheme_of(tags.tolist())
        head = self._head()
        left_open = isinstance(self.crf, str) and self.head == "linear" and self.loss == "auto"
        if left_open and scheme is not None:
            head = CRF()
        if not isinstance(head, CRF):
            return TagCoding(tags, factors)
        if head.constraints != "auto":
            scheme = head.constraints
        masks = None if scheme is None else forbidden(tags.tolist(), scheme)
        if masks is not None and head.constraints == "auto":
            bad = first_forbidden(codes, lengths, masks)
            if bad is not None:
                masks = None
                warnings.warn(
                    f"{bad.where(y, 'y')}: the tags are no well-formed {str(scheme).upper()}, so "
                    f"the CRF forbids no neighbours.",
                    stacklevel=users_level(),
                )
        return TagCoding(tags, factors, True, masks)

    def _build(self, options: Options, coding: Any) -> dict[str, Any]:
        fitted = super()._build(options, coding)
        backbone = fitted["model_"].backbone
        if not self.self_attention and not looks_ahead(backbone):
            warnings.warn(
                f"The backbone {type(backbone).__name__} is causal: each word is tagged without "
                f"what stands behind it. Backbone(..., bidirectional=True) lets it see that, and "
                f"encoders such as {DEFAULT_BACKBONE!r} do anyway.",
                UserWarning,
                stacklevel=users_level(),
            )
        return fitted

    def _make_model(
        self, backbone: Any, pooling: str, coding: TagCoding, **config: Any
    ) -> TaggingModel:
        model = TaggingModel(
            TaggingConfig(
                subword=self.subword,
                self_attention=self.self_attention,
                crf=coding.joint,
                **config,
            ),
            backbone,
        )
        self._adapt(model, coding)
        return model

    def _adapt(self, model: TaggingModel, coding: TagCoding) -> None:
        if model.config.crf:
            model.crf.constrain(*(coding.forbidden or ()))

    def _loss(self) -> Any:
        return CrossEntropy() if self.loss == "auto" else named(self.loss, TAG_LOSSES)

    def _class_names(self, coding: TagCoding) -> list[str]:
        return coding.names

    def _objective(self, model: Any, loss: Any, coding: Any) -> tuple[Any, dict[str, Any]]:
        if model.config.crf:
            return losses.CRFLoss(), {"accuracy": losses.count_correct_paths}
        if isinstance(loss, FocalLoss):
            return losses.Focal(float(loss.gamma)), {"accuracy": losses.count_correct}
        smoothing = float(loss.label_smoothing)
        return losses.CrossEntropy(smoothing), {"accuracy": losses.count_correct}

    def _fit_probe(
        self,
        vectors: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        coding: TagCoding,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        return logistic_probe(vectors, values, weights, len(coding.tags), rng)

    def _native_config(self) -> dict[str, Any]:
        return {"subword": self.subword}

    def _checkpoint_coding(
        self, names: list[str], problem_type: str | None, name: str
    ) -> TagCoding:
        if len(set(names)) < len(names):
            raise ValueError(f"{name} gives several of its outputs the same name: {names}.")
        return TagCoding(np.array(sorted(names)), np.ones(len(names)))

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> WordEncoder:
        return WordEncoder(tokenizer, max_length, named(self.long_text, WINDOWS).stride)

    def _exported_rows(self) -> dict[str, Any]:
        config: Any = self.model_.config
        if config.crf:
            raise ValueError(
                "export_onnx writes logits of words by themselves, but the model has a CRF "
                "(crf, head): fit with crf=False."
            )
        if config.subword not in ("first", "last"):
            raise ValueError(
                f"export_onnx writes logits of tokens, but subword={config.subword!r} joins those "
                f'of a word: fit with subword="first" or "last".'
            )
        return {"rows": "words", "subword": config.subword}

    def _exported_outputs(self) -> dict[str, Any]:
        return {"task": "tagging", "classes": self.classes_.tolist(), "apply": "softmax"}

    def _check_saved_attributes(self) -> None:
        super()._check_saved_attributes()
        check_shape("classes_", self.classes_, (self.model_.config.num_labels,))
        if self.metric_ not in ("span_f1", "accuracy"):
            raise ValueError(f"metric_ is {self.metric_!r}")

    def _spans(self, tags: list[Any]) -> list[tuple[int, int, str]]:
        if self.metric_ == "span_f1":
            return spans(tags)
        edges = [i for i, tag in enumerate(tags) if i == 0 or tag != tags[i - 1]] + [len(tags)]
        return [(a, b, str(tags[a])) for a, b in pairwise(edges)]


def _constraints(model: TaggingModel) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What the CRF of a model forbids, as `constraints.forbidden` gives it."""
    if not model.config.crf:
        return None
    masks = model.crf.forbidden_start, model.crf.forbidden, model.crf.forbidden_end
    first, pairs, last = (mask.cpu().numpy() for mask in masks)
    return (first, pairs, last) if first.any() or pairs.any() or last.any() else None


def _objects(values: list[Any]) -> np.ndarray:
    """A one-dimensional array, also of things that have equal lengths."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _lists(flat: list[Any], words: list[list[str]]) -> np.ndarray:
    """A flat list cut into one list a sentence."""
    ends = np.cumsum([len(sentence) for sentence in words]).tolist()
    return _objects([flat[a:b] for a, b in pairwise([0, *ends])])

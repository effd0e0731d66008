"""Texts in, one of the labels' words out."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sktransformers._docs import shared_docs
from sktransformers.answering import AnsweringEstimator
from sktransformers.concurrency import DRAWING, of_one_fit
from sktransformers.course import Data, Options
from sktransformers.estimator import counts_of, with_callbacks
from sktransformers.fitted import chunks
from sktransformers.inference.label_trie import label_scores
from sktransformers.inputs.batching import Budget, Encoded, Ragged
from sktransformers.inputs.encoding import Counts
from sktransformers.inputs.label_words import (
    WordsCoding,
    label_ids,
    one_field,
    with_examples,
    words_of,
)
from sktransformers.inputs.prompts import SourceEncoder, with_targets
from sktransformers.inputs.replay import Reservoir
from sktransformers.inputs.targets import (
    Targets,
    check_classes,
    check_labels,
    check_more_classes,
    class_coding,
    find_classes,
)
from sktransformers.inputs.validation import as_texts, check_shape
from sktransformers.modules.backbone import position_limit
from sktransformers.outputs import ClassScores
from sktransformers.training import runtime

_TEMPLATE = "classify: {text}"
_OPEN_TEMPLATE = "{text}\nlabel:"  # of decoders, which go on where it ends


@shared_docs
class Text2TextClassifier(ClassScores, AnsweringEstimator):
    r"""Classify texts with a language model: its answer is the words of a label.

    An encoder-decoder such as T5 or a decoder such as Llama reads a prompt x that the text stands
    in, and each class c is scored by the words that stand for it, the tokens
    :math:`y_1 \dots y_n`, of which the last one ends them:

    .. math:: s_c = \frac{1}{n} \sum_i \log p(y_i | x, y_1 \dots y_{i-1})

    Probabilities are the softmax of these over the classes, so that nothing but a class is ever
    predicted. A text is read once; behind it the words of all classes are read together, by as many
    steps of the decoder as the longest have tokens.

    The same estimator prompts and fine-tunes. ``fit(None, classes)`` needs no labelled rows
    (zero-shot), ``fit(X, y)`` with ``examples_in_prompt=k`` puts k of them into the prompt
    (few-shot; Brown et al. 2020, arXiv:2005.14165), and ``fit(X, y)`` without examples trains the
    model to answer with the words of the label.

    Parameters
    ----------
    backbone : str, path, Backbone or PreTrainedModel, default="google/flan-t5-small"
        Pretrained encoder-decoder or decoder with its layer of the vocabulary: an id on the
        Hugging Face hub, a directory, or a `Backbone` where the name alone is not enough. The
        default (77 million parameters, English) was trained to follow instructions.
    template : str, default=None
        The prompt: a text with one field in braces, which stands for the text of a row. The words
        of a label follow it. None means ``"classify: {text}"`` for an encoder-decoder and
        ``"{text}\nlabel:"`` for a decoder.
    label_words : dict, default=None
        The words that stand for each class, ``{class: str}``. None means the classes' names.
    examples_in_prompt : int, default=0
        Labelled rows that ``fit`` puts in front of every prompt, the same number of each class as
        far as that goes, drawn with ``random_state``. Their texts are cut, with a warning that
        counts them, until one prompt more of that length fits into ``max_length``.
    loss : {"auto", "cross_entropy"} or CrossEntropy, default="auto"
        What training minimises: the mean over the tokens of a row's label of their cross-entropy;
        `CrossEntropy` holds label smoothing, over the vocabulary.
    finetune : "auto", None, "full", int, GradualUnfreezing, LoRA or BitFit, default="auto"
        What ``fit`` trains. None is nothing: rows are looked at for their classes and for examples.
        ``"auto"`` is ``"full"``, everything, without examples in the prompt, and None with them.
        Else the top n blocks, one more block at a time, low-rank adapters or biases; rows that are
        examples in the prompt are then not trained on. What is frozen computes as in prediction.
    {optimisation}
    max_length : int, default=None
        Tokens of a prompt, special tokens included. Of a longer one the text of the row is cut at
        its end, with a warning that counts such rows. None means what the model can read, at most
        512.
    {max_batch_tokens}
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, on top of ``sample_weight``. ``"balanced"`` makes all
        classes weigh the same in sum.
    {training}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels; the order of the columns of ``predict_proba``.
    label_words_ : dict
        The words of each class.
    prompt_ : str
        The template with the examples in front of it.
    {attributes}
    {table}

    Notes
    -----
    ``train_accuracy`` and ``valid_accuracy`` of ``history_`` are shares of tokens, each after the
    true ones before it; ``scoring="accuracy"`` watches that of labels. After a ``fit`` that trains
    nothing there is no ``lr_`` and no ``net_``.

    See Also
    --------
    Text2TextGenerator : Free answers.
    TransformerSequenceClassifier : Classification with a head, faster and without prompts.

    Examples
    --------
    >>> from sktransformers import Text2TextClassifier
    >>> clf = Text2TextClassifier(template="Is this review good or bad? {text}")
    >>> clf.fit(None, ["good", "bad"])  # doctest: +SKIP
    >>> clf.predict(["a warm and funny film"])  # doctest: +SKIP
    array(['good'], dtype='<U4')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **AnsweringEstimator._parameter_constraints,
        "template": [str, None],
        "label_words": [dict, None],
        "examples_in_prompt": [Interval(Integral, 0, None, closed="left")],
        "finetune": [
            *AnsweringEstimator._parameter_constraints["finetune"],
            StrOptions({"auto"}),
            None,
        ],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        backbone="google/flan-t5-small",
        *,
        template=None,
        label_words=None,
        examples_in_prompt=0,
        loss="auto",
        finetune="auto",
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
        self.template = template
        self.label_words = label_words
        self.examples_in_prompt = examples_in_prompt
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

    # ------------------------------------------------------------------ fit

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Make a prompt, and fine-tune the model if ``finetune`` says so.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1), or None
            Texts in a list, tuple, array, Series or table. None means that there are no labelled
            rows: nothing is trained, whatever ``finetune`` is.
        y : array-like of shape (n_samples,)
            The label of each text. If X is None, the classes, each once.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the loss. Rows of weight zero are dropped before anything else,
            and are no examples in the prompt.
        X_val, y_val : array-like, default=None
            Validation rows and labels, which are scored after every epoch of training.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or a weight is not as described, two classes have the same words,
            or no backbone can be loaded. Nothing is trained before everything else was checked.
        FloatingPointError, KeyboardInterrupt
            If the loss is no number, and after Ctrl-C. The estimator is left fitted with the best
            weights so far, unless no step was made.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch on some rows, from where the last training ended.

        Of an estimator that has been prompted, with labelled rows or without, this is the beginning
        of fine-tuning; the prompt stays. The learning rate is constant, a quarter of ``lr``, and
        the state of the optimizer goes on.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``fit``.
        classes : array-like of shape (n_classes,), default=None
            Classes that y may have beyond those known so far: in the first call all that y of
            later calls will have; later, new ones.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``, if y has a class that is neither known nor in ``classes``, and with
            ``early_stopping=True`` or ``finetune=None``.
        """
        return self._partial_fit(X, y, sample_weight, classes=classes)

    def find_lr(self, X, y, sample_weight=None, *, lr_min=1e-7, lr_max=1.0, n_steps=100):
        """Learning rate range test, as of the other estimators.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``fit``.
        lr_min, lr_max : float, default=1e-7, 1.0
            Learning rate in the first and in the last step.
        n_steps : int, default=100
            Number of steps.

        Returns
        -------
        curve : LearningRateCurve

        Raises
        ------
        ValueError
            If ``fit`` would train nothing.
        """
        if self._trained is None:
            raise ValueError(f"find_lr trains, but {self._why_untrained()}.")
        return super().find_lr(X, y, sample_weight, lr_min=lr_min, lr_max=lr_max, n_steps=n_steps)

    @classmethod
    def _from_checkpoint(cls, name: Any, **params: Any) -> Any:
        """Not for this class: ``fit(None, classes)`` takes a checkpoint as it is."""
        raise ValueError(
            f"from_pretrained reads the labels of a checkpoint, and a language model has none: "
            f"{cls.__name__}({name!r}).fit(None, classes) predicts with it as it is."
        )

    def save_pretrained(self, path, *, keep_examples=False, **options):
        """Write the fitted estimator as a directory, all of it or nothing.

        Parameters
        ----------
        path : str or path-like
            The directory. It appears when all is written. One that an earlier call wrote is
            replaced.
        keep_examples : bool, default=False
            Whether rows of training that stand in ``prompt_`` may be written; without them the
            estimator would not be what it is.
        **options
            ``weights``, ``format``, ``drop``, ``overwrite`` and ``scores``, as of the other
            estimators.

        Raises
        ------
        FileExistsError, NotFittedError, TypeError
            As the other estimators do.
        ValueError
            Likewise, and if there are rows in the prompt and no ``keep_examples=True``.
        """
        check_is_fitted(self)
        if not keep_examples and self.prompt_ != self._template(self.model_):
            raise ValueError(
                f"prompt_ holds texts of the rows that fit was given "
                f"(examples_in_prompt={self.examples_in_prompt}), and would be in the directory: "
                f"say keep_examples=True if it may, or fit with examples_in_prompt=0."
            )
        super().save_pretrained(path, **options)

    def _check_saved_attributes(self) -> None:
        super()._check_saved_attributes()
        check_shape("classes_", self.classes_, (len(self.label_words_),))
        if list(self.label_words_) != self.classes_.tolist():
            raise ValueError("label_words_ has other classes than classes_")

    @property
    def prompt_(self) -> str:
        """The template with the examples in front of it."""
        return self.model_.config.prompt

    @property
    def _trained(self) -> Any:
        """What ``fit`` trains."""
        if self.finetune != "auto":
            return self.finetune
        return None if self.examples_in_prompt else "full"

    def _why_untrained(self) -> str:
        if self.finetune is None:
            return "finetune=None trains nothing"
        return (
            f'finetune="auto" trains nothing with examples_in_prompt={self.examples_in_prompt}; '
            f'say finetune="full" for both'
        )

    @DRAWING  # as the template does
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        X_val: Any = None,
        y_val: Any = None,
        in_part: bool = False,
        **names: Any,
    ) -> Any:
        if in_part and self.finetune is None:
            raise ValueError("partial_fit trains, but finetune=None trains nothing.")
        if in_part or (X is not None and self._trained is not None):
            return super()._fit(X, y, sample_weight, X_val, y_val, in_part, **names)
        options = self._check_options()
        earlier = self if self.warm_start and self.__sklearn_is_fitted__() else None
        rows: Sequence[Any] = []
        if X is not None:
            train, coding = self._check_data(X, y, sample_weight, earlier, {})
            rows = train.rows[:1]
        else:
            of_rows = {"sample_weight": sample_weight, "X_val": X_val, "y_val": y_val}
            for name, given in of_rows.items():
                if given is not None:
                    raise ValueError(f"{name} was passed, but X is None: there are no rows.")
            coding = self._named_classes(y)
        with runtime.seeded(options.seed, options.device):
            if earlier is None:
                fitted = self._build(options, coding)
            else:
                fitted = {
                    "model_": copy.deepcopy(earlier.model_),
                    "tokenizer_": earlier.tokenizer_,
                    "max_length_": earlier.max_length_,
                }
                self._grow(fitted["model_"], earlier, coding, None)
        model = fitted["model_"].to(options.device).eval()
        fitted |= coding.attributes | counts_of(model, ())
        new = copy.copy(self)
        new._set_features(X)
        new.__dict__.update(fitted)
        if earlier is None:
            new.__dict__.update(history_=[], n_iter_=0, n_samples_seen_=0, _held_out=None)
            for name in ("net_", "lr_", "_moments", "_reservoir"):
                new.__dict__.pop(name, None)
        new._make_encoder(model, new.tokenizer_, new.max_length_).encode(rows)  # there is room
        self.__dict__ = new.__dict__  # at once
        return self

    def _check_options(self) -> Options:
        options = super()._check_options()
        if self.template is not None:
            one_field(self.template)
        if isinstance(self.examples_in_prompt, bool):
            raise ValueError("The 'examples_in_prompt' parameter is no boolean.")
        # In partial_fit "auto" is all, whatever stands in the prompt.
        options.finetune = "full" if self.finetune == "auto" else self.finetune
        return options

    def _check_X(self, X: Any, name: str = "X") -> Sequence[str]:
        return as_texts(X, name)

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_labels(y, len(rows), type(self).__name__, name)

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, earlier: Any, names: dict[str, Any]
    ) -> tuple[Data, WordsCoding]:
        data, coding = super()._check_data(X, y, sample_weight, earlier, names)
        if "classes" in names and earlier is not None:  # partial_fit: the prompt stays
            return data, replace(coding, examples=None)
        k, n = self.examples_in_prompt, len(data.rows)
        if k == 0:
            return data, coding
        if k > n or (k == n and ("classes" in names or self._trained is not None)):
            behind = "" if k > n else f", and finetune={self.finetune!r} has nothing to train on"
            raise ValueError(
                f"examples_in_prompt={k} takes {k} of the rows of X, which has {n}{behind}."
            )
        seed = runtime.resolve_seed(copy.deepcopy(self.random_state))
        rng = np.random.default_rng(seed)
        each = Reservoir.of(range(n), data.y, data.weights, rng)
        drawn = rng.permutation(each.kept(data.targets.strata, k).rows)
        examples = [(data.rows[i], coding.words[data.targets.values[i]]) for i in drawn]
        rest = data.take(np.setdiff1d(np.arange(n), drawn))
        return rest, replace(coding, examples=examples)

    def _make_coding(
        self, y: np.ndarray, weights: np.ndarray, earlier: Any, classes: Any = None
    ) -> WordsCoding:
        known = None if earlier is None else earlier.classes_
        if classes is not None:
            known = check_more_classes(classes, known, False)
        coding = class_coding(
            find_classes(y) if known is None else known, self.class_weight, y, weights
        )
        return self._with_words(coding.classes, coding.factors)

    def _named_classes(self, y: Any) -> WordsCoding:
        """Coding of classes that are named, and have no rows."""
        if self.examples_in_prompt:
            raise ValueError(
                f"examples_in_prompt={self.examples_in_prompt} needs labelled rows, but X is None."
            )
        if y is None:
            raise ValueError("X and y are None: expected the classes as y, each once.")
        classes = np.unique(check_classes(y, "y"))
        return self._with_words(classes, np.ones(len(classes)))

    def _with_words(self, classes: np.ndarray, factors: np.ndarray) -> WordsCoding:
        words = words_of(classes, self.label_words)
        return WordsCoding(classes, factors, words=words, examples=[])

    # ---------------------------------------------------------------- model

    def _build(self, options: Options, coding: WordsCoding) -> dict[str, Any]:
        fitted = super()._build(options, coding)
        model = fitted["model_"]
        model.config.prompt = self._template(model)
        if self.max_length is None and model.reads_source_first:
            limit = position_limit(model.native)
            if limit is not None:  # prompt and words are numbered in one go
                room = limit - self._longest(model, fitted["tokenizer_"], coding)
                fitted["max_length_"] = max(1, min(fitted["max_length_"], room))
        self._write_prompt(**fitted, coding=coding)
        return fitted

    def _resolve_max_length(self, loaded: Any) -> int:
        # How long answers are, is not for a parameter to say: `_build` knows the labels.
        return super(AnsweringEstimator, self)._resolve_max_length(loaded)

    def _grow(self, model: Any, earlier: Any, coding: WordsCoding, course: Any) -> None:
        self._write_prompt(model, earlier.tokenizer_, earlier.max_length_, coding)

    def _write_prompt(
        self, model_: Any, tokenizer_: Any, max_length_: int, coding: WordsCoding
    ) -> None:
        """Tell a model its prompt, and check that it can tell the words of the classes apart."""
        if coding.examples is not None:
            model_.config.prompt = with_examples(
                tokenizer_, self._template(model_), coding.examples, max_length_
            )
        longest = self._longest(model_, tokenizer_, coding)
        limit = position_limit(model_.native)
        if model_.reads_source_first and limit is not None and max_length_ + longest > limit:
            raise ValueError(
                f"max_length={max_length_} leaves no room for label_words, which are up to "
                f"{longest} tokens long: the model can number {limit} tokens of both together."
            )

    def _template(self, model: Any) -> str:
        default = _OPEN_TEMPLATE if model.reads_source_first else _TEMPLATE
        return default if self.template is None else self.template

    def _longest(self, model: Any, tokenizer: Any, coding: WordsCoding) -> int:
        """Most tokens of the words of a class."""
        words = coding.attributes["label_words_"]
        return int(self._label_ids(model, tokenizer, words).lengths.max())

    def _label_ids(self, model: Any, tokenizer: Any, words: dict[Any, str]) -> Ragged:
        return label_ids(tokenizer, words, model.config.prompt, model.reads_source_first)

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> SourceEncoder:
        return SourceEncoder(tokenizer, max_length, model.config.prompt, model.reads_source_first)

    def _with_answers(
        self, encoded: Encoded, targets: Targets, fitted: dict[str, Any]
    ) -> tuple[Encoded, Targets]:
        ids, weights = targets.values, targets.weights
        if not isinstance(ids, Ragged):  # once: rows that are drawn anew keep their targets
            model, tokenizer = fitted["model_"], fitted["tokenizer_"]
            labels = self._label_ids(model, tokenizer, fitted["label_words_"])
            ids = labels.take(ids)
            ids = Ragged(ids.flat.astype(np.int64), ids.start)  # as a loss wants them
            # A row weighs as much as another one, however many tokens its label has.
            weights = Ragged(np.repeat(weights / ids.lengths, ids.lengths), ids.start)
        return with_targets(encoded, ids), Targets(ids, weights, targets.strata)

    # -------------------------------------------------------------- outputs

    @of_one_fit
    def predict(self, X):
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like
            Texts, as in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            In the type that the labels had in ``fit``.
        """
        scores = self._outputs(X)  # first: it says whether this is fitted
        return self.classes_[scores.argmax(axis=1)]

    def _decide(self, rows: Sequence[str], decide: Any = None, width: int = 0) -> np.ndarray:
        model = self.model_
        encoder = self._make_encoder(model, self.tokenizer_, self.max_length_)
        labels = self._label_ids(model, self.tokenizer_, self.label_words_)
        predictor = self._predictor(model, encoder.pad_id)
        predictor = predictor._replace(max_batch_tokens=Budget(self.max_batch_tokens))
        places: dict[str, int] = {}
        which = [places.setdefault(row, len(places)) for row in rows]
        texts = list(places)
        scores = np.empty((len(texts), len(labels)))
        counts = []
        for part in chunks(len(texts)):
            encoded, counted = encoder.encode(texts[part])
            counts.append(counted)
            scores[part] = label_scores(model, predictor, encoded, labels)
        Counts.total(counts).warn(self.max_length_)
        return scores[which]

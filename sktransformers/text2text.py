"""Texts in, texts out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted
from transformers import GenerationConfig

from sktransformers._docs import shared_docs
from sktransformers.answering import AnsweringEstimator
from sktransformers.concurrency import DRAWING, of_one_fit
from sktransformers.course import Options
from sktransformers.estimator import counts_of, with_callbacks
from sktransformers.fitted import chunks
from sktransformers.inference.generation import generate
from sktransformers.inputs.answers import TextCoding, check_answers
from sktransformers.inputs.encoding import Counts, users_level
from sktransformers.inputs.prompts import Row, SourceEncoder, Template, end_id
from sktransformers.inputs.sources import as_sources, with_prefix
from sktransformers.modules.decoding import (
    check_length,
    given_settings,
    settings,
    try_settings,
)
from sktransformers.text_metrics import METRICS, check_library
from sktransformers.training import runtime


class Answers(NamedTuple):
    """What a model wrote.

    Parameters
    ----------
    texts : ndarray of str and shape (n_samples,)
        The answers, in an array of objects.
    truncated : ndarray of bool and shape (n_samples,)
        Whether an answer was cut at the most tokens that it may have.
    """

    texts: np.ndarray
    truncated: np.ndarray


@shared_docs
class Text2TextGenerator(AnsweringEstimator):
    r"""Fine-tune a language model that answers a text with a text.

    For summaries, answers to questions, translations, and whatever else has a text as target.
    The model is an encoder-decoder (T5, FLAN-T5, mT5, ByT5, BART, mBART, Pegasus, ...), which
    reads the source and writes the target, or a decoder (GPT-2, Llama, Qwen, ...), which goes on
    where the source ends. Training minimises
    :math:`-\sum_i \log p(y_i | x, y_1 \dots y_{i-1})` with the true tokens before each one
    (teacher forcing; Sutskever et al. 2014, arXiv:1409.3215; Raffel et al. 2020,
    arXiv:1910.10683).

    Parameters
    ----------
    backbone : str, path, Backbone or PreTrainedModel, default="google/flan-t5-small"
        Pretrained model: an id on the Hugging Face hub, a directory, or a `Backbone` where the name
        alone is not enough. A loaded ``PreTrainedModel`` with its layer of the vocabulary is
        copied, also by ``clone``, and never trained in place.
    prefix : str, default=""
        What stands in front of every source, such as ``"summarize: "``. ``fit``, ``predict`` and
        ``score`` take others, one for all rows or one a row, so that one model learns several
        tasks.
    template : str, default=None
        What the texts of a row become, with a field for each: ``"question: {question} context:
        {context}"``. Fields are columns of a table, keys of dicts, or numbers of columns from 0:
        ``"question: {1} context: {0}"`` for tuples. A brace that is meant as such is doubled.
        None is for one text a row: the text as it is, and for a decoder a line's end behind it.
    generation : dict, GenerationConfig or None, default=None
        How answers are written, as in ``generate`` of transformers: ``{"num_beams": 4}``,
        ``{"do_sample": True, "top_p": 0.9}``, ... What it leaves open is as the checkpoint says,
        but for lengths and ``do_sample``: None is greedy, or searches with the checkpoint's beams.
    metric : {"token_f1", "exact_match", "rougeL", "chrf", "bleu"}, default="token_f1"
        What ``score`` measures, see ``sktransformers.metrics``. The last three need ``pip install
        sktransformers[text2text]``.
    loss : {"auto", "cross_entropy"} or CrossEntropy, default="auto"
        Cross-entropy of every token of a target; ``CrossEntropy(label_smoothing=0.1)`` has options.
        A row weighs as many times its ``sample_weight`` as its target has tokens.
    finetune : {"full"}, int, GradualUnfreezing, LoRA or BitFit, default="full"
        What is trained: everything; the top n blocks and the final norm, where those of the decoder
        lie above those of the encoder; one more block at a time, from the top; low-rank adapters;
        biases. What is frozen computes as in prediction, without dropout.
    {optimisation}
    max_length : int, default=None
        Most tokens of a source. None means what the model can read, at most 512, and for a decoder
        less ``max_target_length``. Of longer ones the texts are cut, the longest first, with a
        warning that counts them; words of prefix and template stay.
    max_target_length : int, default=64
        Most tokens of a target, the end included, and of an answer. Longer targets are cut, with a
        warning that counts them, and counted in ``truncated_``.
    {max_batch_tokens}
        Prefix and words of the template are never changed.
    {training}

    Attributes
    ----------
    truncated_ : int
        Targets of the training rows that were cut at ``max_target_length``. How many answers were,
        ``predict`` says in a warning, and ``generate`` for each.
    {attributes}
    n_features_in_ : int
        Columns of X, only if it was a table.
    feature_names_in_ : ndarray of shape (n_columns,)
        Their names, only if X was a table with names.

    See Also
    --------
    Text2TextClassifier : The same models as classifiers.
    sktransformers.metrics.rouge_l_score, sktransformers.metrics.bleu_score : Scores.

    Examples
    --------
    >>> from sktransformers import Text2TextGenerator
    >>> X = ["the tram was late again, and nobody said why"] * 8
    >>> y = ["late tram"] * 8
    >>> model = Text2TextGenerator(prefix="summarize: ", random_state=0)
    >>> model.fit(X, y).predict(X[:1])  # doctest: +SKIP
    array(['late tram'], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **AnsweringEstimator._parameter_constraints,
        "prefix": [str],
        "template": [str, None],
        "generation": [dict, GenerationConfig, None],
        "metric": [StrOptions(set(METRICS))],
    }

    def __init__(
        self,
        backbone="google/flan-t5-small",
        *,
        prefix="",
        template=None,
        generation=None,
        metric="token_f1",
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
        max_target_length=64,
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
        self.prefix = prefix
        self.template = template
        self.generation = generation
        self.metric = metric
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
        self.max_target_length = max_target_length
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

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, prefix=None, prefix_val=None):
        """Fine-tune the language model.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, n_columns)
            Sources: one text a row, in a list, tuple, array or Series; or several, which
            ``template`` joins: tuples, dicts, or the columns of an array or a table.
        y : array-like of shape (n_samples,)
            Targets: one text a row, which must not be empty.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the loss. Rows of weight zero are dropped before anything else.
        X_val, y_val : array-like, default=None
            Validation rows and targets. They are scored after every epoch, as with
            ``early_stopping=True``, instead of a part of X.
        prefix, prefix_val : str or array-like of shape (n_samples,), default=None
            What stands in front of the sources in X and in X_val, instead of the parameter
            ``prefix``: one for all, or one a row.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y, a prefix or a weight is not as described, or no model can be
            loaded. Nothing is loaded or trained before everything else was checked.
        FloatingPointError, KeyboardInterrupt
            If the loss is no number, and after Ctrl-C. The estimator is left fitted with the best
            weights so far, unless no step was made.
        """
        if X_val is None and prefix_val is not None:
            raise ValueError("prefix_val is for X_val, which is None.")
        if X_val is not None and prefix is not None and prefix_val is None:
            if not isinstance(prefix, str):
                raise ValueError(
                    "prefix has an entry for each row of X: pass prefix_val for those of X_val too."
                )
            prefix_val = prefix
        X_val = self._prompted(X_val, prefix_val, "X_val", "prefix_val")
        with self._fitted_to(X):
            return self._fit(self._prompted(X, prefix), y, sample_weight, X_val, y_val)

    def partial_fit(self, X, y, sample_weight=None, prefix=None):
        """Train for one epoch on some rows, from where the last training ended.

        The learning rate is constant, a quarter of ``lr``, and the state of the optimizer goes on,
        whether or not the estimator was pickled in between. The first call on an estimator that
        is not fitted builds the model, as ``fit`` does, and begins with a warm-up.

        Parameters
        ----------
        X, y, sample_weight, prefix : array-like
            As in ``fit``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``, and with ``early_stopping=True``: one epoch cannot be ended early.
        """
        if self.__sklearn_is_fitted__():
            self._check_features(X)
        with self._fitted_to(X):
            return self._partial_fit(self._prompted(X, prefix), y, sample_weight)

    @of_one_fit
    def predict(self, X, prefix=None):
        """Answer of each row.

        Rows go through sorted by length, and without drawing (``do_sample``) each distinct source
        once: then an answer does not depend on the other rows. Drawn ones do, and are the same in
        each call with an integer as ``random_state``.

        Parameters
        ----------
        X : array-like
            Sources, as in ``fit``.
        prefix : str or array-like of shape (n_samples,), default=None
            As in ``fit``.

        Returns
        -------
        texts : ndarray of str and shape (n_samples,)
            In an array of objects. A warning counts those that were cut.
        """
        texts, truncated = self.generate(X, prefix)
        if truncated.any():
            warnings.warn(
                f"{np.count_nonzero(truncated)} of {len(texts)} answers have as many tokens as "
                f"they may and were cut there: max_target_length={self.max_target_length}"
                f"{', or max_new_tokens of generation' if self.generation else ''}.",
                UserWarning,
                stacklevel=users_level(),
            )
        return texts

    @of_one_fit
    def generate(self, X, prefix=None):
        """Answer of each row, and whether it was cut.

        Parameters
        ----------
        X, prefix : array-like
            As in ``predict``.

        Returns
        -------
        answers : Answers
            ``texts``, as ``predict`` returns them, and ``truncated``.
        """
        check_is_fitted(self)
        if prefix is not None:
            self._check_features(X)
        rows = self._fitted_rows(self._prompted(X, prefix))
        native, tokenizer = self.model_.native, self.tokenizer_
        encoder = self._make_encoder(self.model_, tokenizer, self.max_length_)
        config = self._settings(native, tokenizer, encoder.pad_id)
        check_length(native, self.max_length_, config.max_new_tokens)
        predictor = self._predictor(self.model_, encoder.pad_id)
        predictor = predictor._replace(max_batch_tokens=self.max_batch_tokens)
        distinct = rows if config.do_sample else list(dict.fromkeys(rows))
        seed = runtime.resolve_seed(self.random_state) if config.do_sample else 0
        drawing = runtime.seeded(seed, predictor.device) if config.do_sample else nullcontext()
        found: list[tuple[str, bool]] = []
        counts = []
        with drawing:
            for part in chunks(len(distinct)):
                encoded, counted = encoder.encode(distinct[part])
                counts.append(counted)
                ids, cut = generate(predictor, native, encoded, config, tokenizer)
                texts = tokenizer.batch_decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                found += zip(texts, cut.tolist())
        Counts.total(counts).warn(self.max_length_)
        if len(distinct) < len(rows):
            known = dict(zip(distinct, found))
            found = [known[row] for row in rows]
        answers, truncated = zip(*found)
        return Answers(np.array(answers, dtype=object), np.array(truncated))

    @of_one_fit
    def score(self, X, y, sample_weight=None, prefix=None):
        """How well predictions agree with y, by ``metric``.

        Parameters
        ----------
        X, prefix : array-like
            As in ``predict``.
        y : array-like of shape (n_samples,)
            True answers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; not for ``"bleu"`` and ``"chrf"``, which are of all rows together.

        Returns
        -------
        score : float
            Between 0 and 1.

        Raises
        ------
        ImportError
            If ``metric`` needs a library that the extra ``text2text`` brings.
        """
        check_library(self.metric)
        return METRICS[self.metric](y, self.predict(X, prefix), sample_weight=sample_weight)

    @classmethod
    def _from_checkpoint(cls, name: Any, **params: Any) -> Any:
        estimator = cls(**{**params, "backbone": name})
        estimator._validate_params()
        options = estimator._check_options()
        fitted = estimator._build(options, None)
        fitted["model_"].to(options.device).eval()
        counts = estimator._counted(None, None, None) | counts_of(fitted["model_"], ())
        estimator.__dict__.update(fitted, history_=[], n_iter_=0, **counts)
        return estimator

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.target_tags.required = True
        return tags

    def _check_options(self) -> Options:
        Template.of(self._template(False))
        given_settings(self.generation)
        if self.scoring is None:
            check_library(self.metric)
        return super()._check_options()

    def _build(self, options: Options, coding: Any) -> dict[str, Any]:
        fitted = super()._build(options, coding)
        if self.generation:  # what the model refuses would else show after training
            model, tokenizer = fitted["model_"], fitted["tokenizer_"]
            encoder = self._make_encoder(model, tokenizer, fitted["max_length_"])
            config = self._settings(model.native, tokenizer, encoder.pad_id)
            try_settings(model.native, config, tokenizer)
        return fitted

    def _settings(self, native: Any, tokenizer: Any, pad_id: int) -> GenerationConfig:
        """How answers are written."""
        return settings(
            native,
            given_settings(self.generation),
            max_new_tokens=int(self.max_target_length),
            pad_id=pad_id,
            end=end_id(tokenizer),
        )

    def _most_new_tokens(self) -> int:
        asked = given_settings(self.generation).get("max_new_tokens") or 0
        return max(super()._most_new_tokens(), int(asked))

    def _template(self, reads_source_first: bool) -> str:
        if self.template is not None:
            return self.template
        return "{text}\n" if reads_source_first else "{text}"

    def _check_X(self, X: Any, name: str = "X") -> Sequence[Row]:
        return as_sources(X, self._template(False), self.prefix, name)

    def _prompted(self, X: Any, prefix: Any, name: str = "X", argument: str = "prefix") -> Any:
        """X, or its rows where they have a prefix that is not the parameter's."""
        return X if prefix is None else with_prefix(self._check_X(X, name), prefix, argument)

    @contextmanager
    def _fitted_to(self, X: Any) -> Iterator[None]:
        """Take over the columns of X if a model is fitted inside, also if Ctrl-C ended that."""
        with DRAWING:  # or what another thread fits meanwhile would be lost
            before = vars(self).get("model_")
            try:
                yield
            finally:
                if vars(self).get("model_") is not before:
                    self._set_features(X)

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        return check_answers(y, rows, name)

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> TextCoding:
        return TextCoding()

    def _make_encoder(self, model: Any, tokenizer: Any, max_length: int) -> SourceEncoder:
        is_open = model.reads_source_first
        return SourceEncoder(tokenizer, max_length, self._template(is_open), is_open)

    def _draw_rows(self, draw: Callable[..., list[Any]], rows: Sequence[Any]) -> list[Any]:
        drawn = draw([row.texts for row in rows])
        return [row._replace(texts=texts) for row, texts in zip(rows, drawn)]

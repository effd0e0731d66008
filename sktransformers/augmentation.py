"""Augmenters: transformers of texts that change some words, or the whole wording, at random."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from sktransformers.inference.filling import fillings, masks_in
from sktransformers.inference.translation import generate
from sktransformers.inputs import augmentation as edits
from sktransformers.inputs.encoding import TextEncoder, private_tokenizer
from sktransformers.inputs.synonyms import (
    Source,
    Synonyms,
    check_dictionary,
    check_stop_words,
    dictionary_source,
    neighbour_source,
    whole_words,
    wordnet_source,
)
from sktransformers.inputs.validation import as_texts, describe
from sktransformers.inputs.words import as_list
from sktransformers.modules.backbone import position_limit
from sktransformers.specs import Backbone
from sktransformers.specs.spec import LARGEST, shared_parameters
from sktransformers.training import loading, runtime

Row = str | list[str]  # a text, or a sentence that came as words
Draw = Callable[[list[Any], np.random.Generator], list[Any]]

_LONGEST = 512  # tokens, where a model states no limit
_MAX_BATCH_TOKENS = 2048  # slots that a translator reads at once

_SHARE = """
rate : float in [0, 1], default={rate}
    Share of the words of a text that change; unless it is zero, one word at least.
rows : float in [0, 1], default=0.5
    Chance of each text to change at all; the others stay as they are.
"""
_RANDOM_STATE = """
random_state : int, RandomState instance or None, default=None
    Seed of ``transform``. In the ``fit`` of an estimator, draws come from that of the
    estimator instead.
"""
_SYNONYMS = """
stop_words : "english", list of str or None, default=None
    Words that are taken to have no synonyms; "english" is scikit-learn's list. WordNet knows
    senses of "a" and "in" that hardly anybody means.
language : str, default="eng"
    Language of WordNet, by the code of three letters that NLTK has for it, such as "por".
n_neighbors : int, default=5
    Neighbours of a word with ``synonyms="embedding"``.
backbone : str, path, Backbone, PreTrainedModel or None, default=None
    Whose embedding to look into. None means that of the estimator that is being fitted as it is
    before training, and alone that of the default backbone.
"""
_DEVICE = """
device : str, torch.device or None, default=None
    Where to compute. None means where the estimator does, and alone ``"auto"``.
"""


class Surroundings(NamedTuple):
    """Where an augmenter is to draw: in the ``fit`` of an estimator, or alone.

    Parameters
    ----------
    backbone : Backbone
        That of the estimator.
    device : torch.device, default=None
        Where the estimator computes.
    model, tokenizer : PreTrainedModel and transformers tokenizer, default=None
        The estimator's backbone.
    tagged : str or False, default=False
        Name of the estimator, if it has a target for every word.
    verbose : bool, default=False
        Whether download bars may show.
    """

    backbone: Backbone
    device: torch.device | None = None
    model: Any = None
    tokenizer: Any = None
    tagged: str | Literal[False] = False
    verbose: bool = False


class Augmenter(TransformerMixin, BaseEstimator):
    """What augmenters have in common.

    A class fills in ``_prepare``, and ``_check`` where its parameters need more than their
    constraints.
    """

    _keeps_words: ClassVar[bool] = False  # one word for each that there was
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "rows": [Interval(Real, 0, 1, closed="both")],
        "random_state": ["random_state"],
    }

    rows: float
    random_state: Any

    def fit(self, X, y=None):
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : array-like of shape (n_samples,)
            Not looked at.
        y : None
            Not looked at.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        return self

    def transform(self, X):
        """Texts, some of which were changed at random.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts, in a list, tuple, array, Series or table.

        Returns
        -------
        texts : list of str
            One for each text of X. With an int as ``random_state``, the same for the same X.

        Raises
        ------
        ValueError
            If a parameter or X is not as described, or a model cannot be loaded.
        """
        self._check_parameters()
        texts = list(as_texts(X))
        seed = runtime.resolve_seed(self.random_state)
        with runtime.seeded(seed, torch.device("cpu")):  # a GPU is woken by who needs it
            draw = self._draw(Surroundings(Backbone()))
            return draw(texts, np.random.default_rng(seed))

    def _check_parameters(self) -> None:
        self._validate_params()
        self._check()

    def _check(self) -> None:
        """Check what the constraints of the parameters cannot say."""

    def _draw(self, there: Surroundings) -> Draw:
        """Get ready; the function changes some of the rows it is given."""
        change = self._prepare(there)

        def draw(rows: list[Row], rng: np.random.Generator) -> list[Row]:
            which = np.flatnonzero(rng.random(len(rows)) < self.rows)
            rows = list(rows)
            for i, row in zip(which, change([rows[i] for i in which], rng)):
                rows[i] = row
            return rows

        return draw

    def _prepare(self, there: Surroundings) -> Draw:
        """Get ready; the function changes all of the rows it is given."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


_RATE: dict[str, Any] = {"rate": [Interval(Real, 0, 1, closed="both")]}


class _FromSynonyms(Augmenter):
    """An augmenter that needs synonyms."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Augmenter._parameter_constraints,
        **_RATE,
        "synonyms": [StrOptions({"wordnet", "embedding"}), Mapping],
        "stop_words": [str, list, tuple, set, frozenset, None],
        "language": [str],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "backbone": "no_validation",
    }

    rate: float
    synonyms: Any
    stop_words: Any
    language: str
    n_neighbors: int
    backbone: Any

    def _check(self) -> None:
        check_stop_words(self.stop_words)
        if isinstance(self.synonyms, Mapping):
            check_dictionary(self.synonyms)
        if self.synonyms == "wordnet":
            wordnet_source(self.language)
        if self.backbone is not None:
            loading.as_backbone(self.backbone)

    def _find(self, there: Surroundings) -> Synonyms:
        return Synonyms(self._source(there), check_stop_words(self.stop_words), bool(there.tagged))

    def _source(self, there: Surroundings) -> Source:
        if isinstance(self.synonyms, Mapping):
            return dictionary_source(check_dictionary(self.synonyms))
        if self.synonyms == "wordnet":
            return wordnet_source(self.language)
        model, tokenizer = there.model, there.tokenizer
        if self.backbone is not None or model is None:
            spec = loading.as_backbone(there.backbone if self.backbone is None else self.backbone)
            try:
                loaded = loading.load(spec, verbose=there.verbose)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}, backbone: {error}") from error
            model, tokenizer = loaded.backbone, private_tokenizer(loaded.tokenizer)
        weight = model.get_input_embeddings().weight.detach().to("cpu", torch.float32).numpy()
        return neighbour_source(weight, tokenizer, self.n_neighbors)


@shared_parameters(_SHARE.format(rate=0.1) + _SYNONYMS.strip("\n") + _RANDOM_STATE)
class SynonymReplacement(_FromSynonyms):
    """Replace words by synonyms (EDA's SR, Wei and Zou 2019, arXiv:1901.11196, section 2).

    A synonym takes over upper and lower case. Punctuation and spaces stay.

    Parameters
    ----------
    synonyms : dict, "wordnet" or "embedding", default="embedding"
        Where synonyms come from: a dictionary with a str or a list of str for each word, looked
        up as it stands in the text and in lower case; WordNet, which needs NLTK (``pip install
        sktransformers[augment]``) and its data (``python -m nltk.downloader wordnet omw-1.4``);
        or the words with the most similar vectors in the input embedding of a backbone (cosine;
        words that are one token), which need not mean the same: "good" is close to "bad".
    {shared}

    See Also
    --------
    MaskedReplacement : Words that fit what stands around them.

    Examples
    --------
    >>> from sktransformers import SynonymReplacement
    >>> augmenter = SynonymReplacement({"film": ["movie"]}, rows=1.0, random_state=0)
    >>> augmenter.transform(["Film of the year, or no film?"])
    ['Movie of the year, or no film?']
    """

    _keeps_words = True

    def __init__(
        self,
        synonyms="embedding",
        *,
        rate=0.1,
        rows=0.5,
        stop_words=None,
        language="eng",
        n_neighbors=5,
        backbone=None,
        random_state=None,
    ):
        self.synonyms = synonyms
        self.rate = rate
        self.rows = rows
        self.stop_words = stop_words
        self.language = language
        self.n_neighbors = n_neighbors
        self.backbone = backbone
        self.random_state = random_state

    def _prepare(self, there: Surroundings) -> Draw:
        synonyms = self._find(there)

        def change(rows: list[Row], rng: np.random.Generator) -> list[Row]:
            parts = [_parts(row) for row in rows]
            synonyms.learn(chain.from_iterable(words for words, _ in parts))
            changed = [edits.replaced(words, synonyms, self.rate, rng) for words, _ in parts]
            return [_whole(words, gaps) for words, (_, gaps) in zip(changed, parts)]

        return change


@shared_parameters(_SHARE.format(rate=0.1) + _SYNONYMS.strip("\n") + _RANDOM_STATE)
class RandomInsertion(_FromSynonyms):
    """Insert words at random places (EDA's RI, Wei and Zou 2019, arXiv:1901.11196, section 2).

    Parameters
    ----------
    synonyms : dict, "wordnet", "embedding" or None, default=None
        What is inserted is a synonym of a random word of the text; where they come from is said
        at `SynonymReplacement`. With None, it is a random word of the text itself.
    {shared}

    Examples
    --------
    >>> from sktransformers import RandomInsertion
    >>> RandomInsertion({"film": "movie"}, rows=1.0, random_state=0).transform(["a warm film"])
    ['a warm movie film']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_FromSynonyms._parameter_constraints,
        "synonyms": [*_FromSynonyms._parameter_constraints["synonyms"], None],
    }

    def __init__(
        self,
        synonyms=None,
        *,
        rate=0.1,
        rows=0.5,
        stop_words=None,
        language="eng",
        n_neighbors=5,
        backbone=None,
        random_state=None,
    ):
        self.synonyms = synonyms
        self.rate = rate
        self.rows = rows
        self.stop_words = stop_words
        self.language = language
        self.n_neighbors = n_neighbors
        self.backbone = backbone
        self.random_state = random_state

    def _prepare(self, there: Surroundings) -> Draw:
        synonyms = None if self.synonyms is None else self._find(there)

        def change(rows: list[str], rng: np.random.Generator) -> list[str]:
            parts = [edits.split(row) for row in rows]
            if synonyms is not None:
                synonyms.learn(chain.from_iterable(words for words, _ in parts))
            return [edits.inserted(*part, synonyms, self.rate, rng) for part in parts]

        return change


@shared_parameters(_RANDOM_STATE)
class RandomDeletion(Augmenter):
    """Delete words (EDA's RD, Wei and Zou 2019, arXiv:1901.11196, section 2).

    Parameters
    ----------
    rate : float in [0, 1], default=0.05
        Chance of each word to go. At least one stays.
    rows : float in [0, 1], default=0.5
        Chance of each text to change at all; the others stay as they are.
    {shared}

    Examples
    --------
    >>> from sktransformers import RandomDeletion
    >>> augmenter = RandomDeletion(rate=0.3, rows=1.0, random_state=5)
    >>> augmenter.transform(["Um filme longo, mas muito bonito."])
    ['Um filme, muito bonito.']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Augmenter._parameter_constraints,
        **_RATE,
    }

    def __init__(self, *, rate=0.05, rows=0.5, random_state=None):
        self.rate = rate
        self.rows = rows
        self.random_state = random_state

    def _prepare(self, there: Surroundings) -> Draw:
        return lambda rows, rng: [edits.deleted(*edits.split(row), self.rate, rng) for row in rows]


@shared_parameters(_SHARE.format(rate=0.1).strip("\n") + _RANDOM_STATE)
class RandomSwap(Augmenter):
    """Let words change places (EDA's RS, Wei and Zou 2019, arXiv:1901.11196, section 2).

    Two random words change places, as often as ``rate`` says. Punctuation stays where it is.

    Parameters
    ----------
    {shared}

    Examples
    --------
    >>> from sktransformers import RandomSwap
    >>> RandomSwap(rows=1.0, random_state=0).transform(["Um filme longo, mas muito bonito."])
    ['Um mas longo, filme muito bonito.']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Augmenter._parameter_constraints,
        **_RATE,
    }

    def __init__(self, *, rate=0.1, rows=0.5, random_state=None):
        self.rate = rate
        self.rows = rows
        self.random_state = random_state

    def _prepare(self, there: Surroundings) -> Draw:
        def change(rows: list[str], rng: np.random.Generator) -> list[str]:
            parts = [edits.split(row) for row in rows]
            return [edits.join(edits.swapped(words, self.rate, rng), gaps) for words, gaps in parts]

        return change


@shared_parameters(_SHARE.format(rate=0.15).strip("\n") + _DEVICE + _RANDOM_STATE.strip("\n"))
class MaskedReplacement(Augmenter):
    """Replace words by what a masked language model puts in their place.

    The words are masked together, and each gets a draw from the likeliest words but itself, by
    their probabilities (Kobayashi 2018, arXiv:1805.06201; with a masked language model Wu et al.
    2019, arXiv:1812.06705, without its training on labels). Only words of the vocabulary that are
    one token are drawn; they take over upper and lower case. A text of a single word stays, and
    of a long text what is behind the tokens that the model reads.

    Parameters
    ----------
    backbone : str, path, Backbone, PreTrainedModel or None, default=None
        A masked language model, head included, such as "distilbert/distilbert-base-uncased".
        None means the backbone of the estimator that is being fitted, if that is one; the
        default backbone is not.
    top_k : int, default=10
        Number of words that the draw is from.
    {shared}

    Examples
    --------
    >>> from sktransformers import MaskedReplacement
    >>> augmenter = MaskedReplacement("distilbert/distilbert-base-uncased")
    >>> augmenter.transform(["a warm and funny film"])  # doctest: +SKIP
    """

    _keeps_words = True
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Augmenter._parameter_constraints,
        **_RATE,
        "backbone": "no_validation",
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
    }

    def __init__(
        self,
        backbone=None,
        *,
        top_k=10,
        rate=0.15,
        rows=0.5,
        device=None,
        random_state=None,
    ):
        self.backbone = backbone
        self.top_k = top_k
        self.rate = rate
        self.rows = rows
        self.device = device
        self.random_state = random_state

    def _check(self) -> None:
        if self.backbone is not None:
            loading.as_backbone(self.backbone)
        _device(self.device, None)

    def _prepare(self, there: Surroundings) -> Draw:
        spec = there.backbone if self.backbone is None else loading.as_backbone(self.backbone)
        model, encoder = _reader(
            "MaskedReplacement, backbone", spec, AutoModelForMaskedLM, self.device, there
        )
        tokenizer = encoder.tokenizer
        mask, mask_id = tokenizer.mask_token, tokenizer.mask_token_id
        ids, names = whole_words(tokenizer)
        if mask is None or not names:
            raise ValueError(
                f"MaskedReplacement: the tokenizer of {loading.label(spec)} has no "
                f"{'token for a mask' if mask is None else 'whole words'}."
            )

        def change(rows: list[Row], rng: np.random.Generator) -> list[Row]:
            parts = [_parts(row) for row in rows]
            chosen = [
                [] if _holds(row, mask) else self._choose(words, rng)
                for row, (words, _) in zip(rows, parts)
            ]
            which = [i for i, places in enumerate(chosen) if places]
            texts = [_masked(*parts[i], chosen[i], mask) for i in which]
            sequences = encoder.encode(texts)[0]
            found = fillings(model, sequences, mask_id, ids, self.top_k + 2, encoder.pad_id)
            options = zip(*found)
            for i, seen in zip(which, masks_in(sequences, mask_id)):
                words = parts[i][0]
                # Where the text was cut, masks at its end were not seen.
                for j, (best, logits) in zip(chosen[i][:seen], options):
                    words[j] = self._fill(words[j], [names[k] for k in best], logits, rng)
            return [_whole(*part) for part in parts]

        return change

    def _choose(self, words: list[str], rng: np.random.Generator) -> list[int]:
        """Which of the words to mask, in order."""
        if len(words) < 2:
            return []
        places = [i for i, word in enumerate(words) if edits.is_word(word)]
        return sorted(rng.permutation(places)[: edits.some(len(words), self.rate)].tolist())

    def _fill(
        self, word: str, options: list[str], logits: np.ndarray, rng: np.random.Generator
    ) -> str:
        others = [i for i, option in enumerate(options) if option.lower() != word.lower()]
        others = others[: self.top_k]
        if not others:
            return word
        chances = np.cumsum(np.exp(logits[others] - logits[others].max()))
        drawn = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
        return edits.like(word, options[others[min(drawn, len(others) - 1)]])


@shared_parameters(_DEVICE.strip("\n") + _RANDOM_STATE)
class BackTranslation(Augmenter):
    """Translate into another language and back (Sennrich et al. 2016, arXiv:1511.06709).

    Sampling gives more different wordings than the likeliest translation does (Edunov et al.
    2018, arXiv:1808.09381). Texts that a model cannot read whole stay as they are, and so do
    those that come back empty.

    Parameters
    ----------
    forward, backward : str, path, Backbone or PreTrainedModel
        Sequence-to-sequence models of the two directions, such as "Helsinki-NLP/opus-mt-en-de"
        and "Helsinki-NLP/opus-mt-de-en".
    forward_prefix, backward_prefix : str, default=""
        What to put before each text, such as T5's "translate English to German: ".
    rows : float in [0, 1], default=0.5
        Chance of each text to change at all; the others stay as they are.
    do_sample : bool, default=True
        Whether to sample each token. Otherwise a text becomes the same in each epoch.
    temperature : float, default=1.0
        Of sampling: smaller numbers keep to likelier tokens.
    num_beams : int, default=1
        Beams of beam search; 1 means none.
    {shared}

    Examples
    --------
    >>> from sktransformers import BackTranslation
    >>> augmenter = BackTranslation("Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en")
    >>> augmenter.transform(["a warm and funny film"])  # doctest: +SKIP
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Augmenter._parameter_constraints,
        "forward": "no_validation",
        "backward": "no_validation",
        "forward_prefix": [str],
        "backward_prefix": [str],
        "do_sample": ["boolean"],
        "temperature": [Interval(Real, 0, LARGEST, closed="neither")],
        "num_beams": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
    }

    def __init__(
        self,
        forward,
        backward,
        *,
        forward_prefix="",
        backward_prefix="",
        rows=0.5,
        do_sample=True,
        temperature=1.0,
        num_beams=1,
        device=None,
        random_state=None,
    ):
        self.forward = forward
        self.backward = backward
        self.forward_prefix = forward_prefix
        self.backward_prefix = backward_prefix
        self.rows = rows
        self.do_sample = do_sample
        self.temperature = temperature
        self.num_beams = num_beams
        self.device = device
        self.random_state = random_state

    def _check(self) -> None:
        loading.as_backbone(self.forward, "forward")
        loading.as_backbone(self.backward, "backward")
        _device(self.device, None)

    def _prepare(self, there: Surroundings) -> Draw:
        directions = [
            (prefix, *_reader(name, loading.as_backbone(model), kind, self.device, there))
            for name, prefix, model, kind in (
                (
                    "BackTranslation, forward",
                    self.forward_prefix,
                    self.forward,
                    AutoModelForSeq2SeqLM,
                ),
                (
                    "BackTranslation, backward",
                    self.backward_prefix,
                    self.backward,
                    AutoModelForSeq2SeqLM,
                ),
            )
        ]
        options: dict[str, Any] = {"do_sample": self.do_sample, "num_beams": self.num_beams}
        if self.do_sample:
            options["temperature"] = float(self.temperature)

        def change(rows: list[str], rng: np.random.Generator) -> list[str]:
            new = dict(enumerate(rows))
            for prefix, model, encoder in directions:
                which = [i for i, text in new.items() if edits.is_word(text)]
                encoding, cut = encoder.read([prefix + new[i] for i in which])
                seed = int(rng.integers(2**31))
                with runtime.seeded(seed, model.device), loading.quiet(False):
                    ids = generate(
                        model,
                        encoding.encoded,
                        encoder.pad_id,
                        _MAX_BATCH_TOKENS,
                        position_limit(model),
                        **options,
                    )
                texts = encoder.tokenizer.batch_decode(ids, skip_special_tokens=True)
                whole = np.flatnonzero(~cut)
                new = {which[i]: texts[i].strip() for i in whole}
            return [new.get(i) or row for i, row in enumerate(rows)]

        return change


def _parts(row: Row) -> tuple[list[str], list[str] | None]:
    """Words, and for a text what stands between them."""
    return edits.split(row) if isinstance(row, str) else (list(row), None)


def _holds(row: Row, part: str) -> bool:
    return part in row if isinstance(row, str) else any(part in word for word in row)


def _masked(words: list[str], gaps: list[str] | None, places: list[int], mask: str) -> str:
    shown = [mask if i in places else word for i, word in enumerate(words)]
    return " ".join(shown) if gaps is None else edits.join(shown, gaps)


def _whole(words: list[str], gaps: list[str] | None) -> Row:
    return words if gaps is None else edits.join(words, gaps)


def _device(device: Any, there: torch.device | None) -> torch.device:
    if device is None:
        return there or runtime.resolve_device("auto")
    return runtime.resolve_device(device)


def _reader(
    name: str, spec: Backbone, auto: Any, device: Any, there: Surroundings
) -> tuple[Any, TextEncoder]:
    """A model, and what turns texts into the token ids that it reads."""
    try:
        model, tokenizer = loading.load_whole(spec, auto, verbose=there.verbose)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    limits = [_LONGEST, tokenizer.model_max_length, position_limit(model)]
    length = int(min(limit for limit in limits if limit is not None))
    model.to(_device(device, there.device))
    return model, TextEncoder(private_tokenizer(tokenizer), length)


# ------------------------------------------------------------------- in the fit of an estimator


def check_augmenters(augment: Any, tagged: str | Literal[False]) -> list[Any]:
    """The augmenters that the parameter ``augment`` of an estimator stands for, checked.

    Parameters
    ----------
    augment : augmenter, list of augmenters or None
        Objects with ``transform``.
    tagged : str or False
        Name of the estimator, if it has a target for every word.

    Raises
    ------
    TypeError
        If something is no object with ``transform``.
    ValueError
        If a parameter of an augmenter is wrong, or it would change the number of words where
        each has a target.
    """
    if augment is None:
        return []
    augmenters = list(augment) if isinstance(augment, (list, tuple)) else [augment]
    for i, augmenter in enumerate(augmenters):
        where = f"augment[{i}]" if isinstance(augment, (list, tuple)) else "augment"
        known = callable(getattr(augmenter, "transform", None))
        # A Series has a method of that name too.
        if isinstance(augmenter, type) or not known or hasattr(augmenter, "__array__"):
            raise TypeError(
                f"{where} is {describe(augmenter)}; expected an augmenter, such as RandomSwap(), "
                f"or another object with a method transform."
            )
        if not isinstance(augmenter, Augmenter):
            continue
        augmenter._check_parameters()
        if tagged and not augmenter._keeps_words:
            raise ValueError(
                f"augment={type(augmenter).__name__}(...) and {tagged} contradict each other: "
                f"it changes the number or order of words, each of which has a tag. "
                f"SynonymReplacement and MaskedReplacement keep them."
            )
    return augmenters


def row_drawer(
    augmenters: Sequence[Any], there: Surroundings, rng: np.random.Generator
) -> Callable[[Sequence[Any]], list[Any]]:
    """Get augmenters ready; the function draws new rows, in the form of those it is given.

    Of a row that is several texts, each is drawn by itself. What augmenters do to torch's random
    state is undone.
    """
    device = there.device or torch.device("cpu")
    # Loading a model may draw numbers for weights that are then read.
    with runtime.seeded(0, device):
        draws = [
            augmenter._draw(there)
            if isinstance(augmenter, Augmenter)
            else partial(_transformed, augmenter, there.tagged)
            for augmenter in augmenters
        ]

    def draw(rows: Sequence[Any]) -> list[Any]:
        width = len(rows[0]) if isinstance(rows[0], tuple) else 0
        texts = list(chain.from_iterable(rows)) if width else list(rows)
        with runtime.seeded(int(rng.integers(2**31)), device):
            for one_draw in draws:
                texts = one_draw(texts, rng)
        if not width:
            return texts
        return [tuple(texts[i : i + width]) for i in range(0, len(texts), width)]

    return draw


def _transformed(
    augmenter: Any, tagged: str | Literal[False], rows: list[Any], rng: np.random.Generator
) -> list[Any]:
    """What an object of the user's makes of rows."""
    name = type(augmenter).__name__
    given = [row if isinstance(row, str) else list(row) for row in rows]
    try:
        found = augmenter.transform(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"augment: transform of {name} failed: {error}") from error
    texts = found.tolist() if isinstance(found, np.ndarray) else as_list(found)
    if texts is None:
        raise TypeError(
            f"augment: transform of {name} returned an object of type {type(found).__name__}; "
            f"expected a list with an entry for each that it was given."
        )
    if len(texts) != len(rows):
        raise ValueError(
            f"augment: transform of {name} returned {len(texts)} entries; it was given {len(rows)}."
        )
    return [_like_given(row, new, i, name, tagged) for i, (row, new) in enumerate(zip(rows, texts))]


def _like_given(row: Row, new: Any, i: int, name: str, tagged: str | Literal[False]) -> Row:
    """An entry that an object of the user's returned, if it is of the kind that was given."""
    where = f"augment: transform of {name} returned at position {i}"
    if isinstance(row, str):
        if not isinstance(new, str):
            raise ValueError(f"{where} an object of type {type(new).__name__}; expected str.")
        return str(new)
    words = as_list(new)
    if words is None or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{where} an object of type {type(new).__name__}; expected words.")
    if len(words) != len(row):
        raise ValueError(
            f"{where} {len(words)} words where {len(row)} were given; {tagged} has a tag for "
            f"each word."
        )
    return [str(word) for word in words]

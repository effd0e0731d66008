"""scikit-learn's battery of estimator checks, honestly and on numbers turned into words."""

import warnings

import numpy as np
import pytest
from conftest import save_backbone
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_array, validate_data
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, PreTrainedTokenizerFast

from sktransformers import Backbone, Linear, TransformerSequenceClassifier

# A relative path, and the checks run in the directory that holds it: the parameters are part
# of the tests' names, which pytest-xdist wants to be the same in every process.
BACKBONE = "backbone-of-numbers"

N_FEATURES = 30
MAX_LENGTH = 256


class NumbersAsWords:
    """What the checks need of an estimator that reads tables of numbers.

    A number of feature j becomes words "fj+" or "fj-", up to four of them: the more the
    larger it is in absolute value. Rows differ in length, as texts do.
    """

    def _check_X(self, X, name="X"):
        X = check_array(X, input_name=name, estimator=self)
        counts = np.clip(np.round(X * 2), -4, 4).astype(int)
        return [
            " ".join(f"f{j}{'+' if k > 0 else '-'} " * abs(k) for j, k in enumerate(row))
            for row in counts
        ]

    def _set_features(self, X):
        # A list of rows of numbers has a number of columns, a list of texts has none.
        validate_data(self, X, skip_check_array=True)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = False
        tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


class ClassifierOfNumbers(NumbersAsWords, TransformerSequenceClassifier):
    pass


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that holds a tiny random backbone with words for numbers."""
    words = [f"f{j}{sign}" for j in range(N_FEATURES) for sign in "+-"]
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_LENGTH,
    )
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    home = tmp_path_factory.mktemp("checks")
    save_backbone(home / BACKBONE, config, tokenizer)
    return home


@pytest.fixture(autouse=True)
def in_directory(directory, monkeypatch):
    monkeypatch.chdir(directory)


def make(cls, **params):
    # In float64: the checks compare outputs of differently padded batches at 1e-7, which is
    # about what float32 rounds to.
    backbone = Backbone(BACKBONE, dtype="float64")
    return cls(backbone, **{"pooling": "mean", "lr": 1e-3, "device": "cpu"} | params)


# Check -> why failing it is not our fault.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a row of weight 2 is in one batch, a repeated row may be in two, with other dropout; "
        "and repeated rows get into the folds that choose the probe's penalty"
    ),
}

# Everything in one batch, nothing random but the head's start, no probe: nothing may fail.
ONE_BATCH = {
    "batch_size": 10_000,
    "head": Linear(dropout=0.0),
    "head_init": "random",
    "lr": 0.01,
    "max_epochs": 20,
    "warmup": 0.0,
}


def parametrize_with_weight_checks(estimators):
    """Decorator for the checks of sample weights, some of which others are expected to fail."""
    cases = [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{i}-{check.func.__name__}")
        for i, estimator in enumerate(estimators)
        for _, check in estimator_checks_generator(estimator)
        if "sample_weight" in check.func.__name__
    ]
    assert len(cases) >= len(estimators)
    return pytest.mark.parametrize("estimator, check", cases)


with warnings.catch_warnings(action="ignore", category=SkipTestWarning):
    # Our tags are honest: strings, not a table of numbers. scikit-learn then runs one single
    # check, that the estimator can be cloned, and warns that it skips all others.
    checks_for_text = parametrize_with_checks([make(TransformerSequenceClassifier)])


@checks_for_text
def test_checks_for_text(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [make(ClassifierOfNumbers, max_epochs=1)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_checks_for_numbers(estimator, check):
    check(estimator)


@parametrize_with_weight_checks([make(ClassifierOfNumbers, **ONE_BATCH)])
def test_checks_for_numbers_in_one_batch(estimator, check):
    check(estimator)

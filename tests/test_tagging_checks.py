"""scikit-learn's battery of estimator checks on a tagger, rows turned into sentences."""

import warnings

import numpy as np
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_array, column_or_1d, validate_data
from test_estimator_checks import (  # noqa: F401 (the fixtures)
    BACKBONE,
    EXPECTED_FAILURES,
    ONE_BATCH,
    directory,
    in_directory,
    parametrize_with_weight_checks,
)
from test_pair_checks import words_of

from sktransformers import CRF, Backbone, TokenTagger


class NumbersAsSentences(TokenTagger):
    """A row is a sentence of one word, whose pieces are its numbers; y is the word's tag.

    A tagger is neither classifier nor regressor, so the checks are those of any estimator.
    """

    def _check_X(self, X, name="X"):
        X = check_array(X, input_name=name, estimator=self)
        return [[" ".join(words_of(row))] for row in X]

    def _check_y(self, y, rows, name="y"):
        if y is not None:
            # Tags are no floats, but some checks know no other numbers.
            y = column_or_1d(y, warn=True).tolist()
            y = [[int(t) if isinstance(t, float) and t.is_integer() else t] for t in y]
        return super()._check_y(y, rows, name)

    def _check_features(self, X, reset=False):
        if not isinstance(X, list) or reset:  # of sentences
            validate_data(self, X, skip_check_array=True, reset=reset)

    def _sentences(self, X):
        return super()._sentences(self._fitted_rows(X))

    def predict(self, X):
        return np.array([tags[0] for tags in super().predict(X)])

    def predict_proba(self, X):
        return np.concatenate(super().predict_proba(X))

    def score(self, X, y):
        return np.mean(self.predict(X) == y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = False
        tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


def make(cls, **params):
    return cls(Backbone(BACKBONE, dtype="float64"), **{"lr": 1e-3, "device": "cpu"} | params)


FAILURES = EXPECTED_FAILURES | {
    "check_fit2d_1sample": (
        "the error says that y has 1 tag, where the check looks for 1 class or 1 sample"
    )
}


@parametrize_with_checks(
    [
        make(NumbersAsSentences, self_attention=True, subword="mean", max_epochs=1),
        make(NumbersAsSentences, crf=True, subword="max", max_epochs=1),
    ],
    expected_failed_checks=lambda _: FAILURES,
)
def test_checks_for_numbers(estimator, check):
    check(estimator)


@parametrize_with_weight_checks(
    [
        make(NumbersAsSentences, **ONE_BATCH | {"self_attention": True}),
        make(NumbersAsSentences, **ONE_BATCH | {"head": CRF(dropout=0.0)}),
    ]
)
def test_checks_for_numbers_in_one_batch(estimator, check):
    check(estimator)


with warnings.catch_warnings(action="ignore", category=SkipTestWarning):
    # With honest tags one single check is run, that the estimator can be cloned.
    checks_for_words = parametrize_with_checks([make(TokenTagger)])


@checks_for_words
def test_checks_for_words(estimator, check):
    check(estimator)

"""scikit-learn's battery of estimator checks on pairs, numbers turned into two texts."""

import warnings

import numpy as np
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_array, validate_data
from test_estimator_checks import (  # noqa: F401 (the fixtures)
    EXPECTED_FAILURES,
    ONE_BATCH,
    directory,
    in_directory,
    make,
    parametrize_with_weight_checks,
)

from sktransformers import PairClassifier, PairRegressor


def words_of(row):
    """As many words of each feature as it is large, as for single texts."""
    counts = np.clip(np.round(np.asarray(row) * 2), -4, 4).astype(int)
    return [f"f{j}{'+' if k > 0 else '-'} " * abs(k) for j, k in enumerate(counts)]


class NumbersAsPairs:
    """The features in even places become the first text, the others the second."""

    def _check_X(self, X, name="X"):
        X = check_array(X, input_name=name, estimator=self)
        rows = [words_of(row) for row in X]
        return [(" ".join(words[::2]), " ".join(words[1::2])) for words in rows]

    def _set_features(self, X):
        validate_data(self, X, skip_check_array=True)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = False
        tags.input_tags.two_d_array = True
        return tags


class PairClassifierOfNumbers(NumbersAsPairs, PairClassifier):
    pass


class PairRegressorOfNumbers(NumbersAsPairs, PairRegressor):
    pass


@parametrize_with_checks(
    [
        make(PairClassifierOfNumbers, interaction="cross", max_epochs=3),
        make(PairRegressorOfNumbers, interaction="all", max_epochs=1),
    ],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_checks_for_numbers(estimator, check):
    check(estimator)


@parametrize_with_weight_checks(
    [
        make(cls, interaction=interaction, **ONE_BATCH)
        for cls in (PairClassifierOfNumbers, PairRegressorOfNumbers)
        for interaction in ("cross", "concat")
    ]
)
def test_checks_for_numbers_in_one_batch(estimator, check):
    check(estimator)


with warnings.catch_warnings(action="ignore", category=SkipTestWarning):
    # With honest tags one single check is run, that the estimator can be cloned.
    checks_for_text = parametrize_with_checks([make(PairClassifier), make(PairRegressor)])


@checks_for_text
def test_checks_for_text(estimator, check):
    check(estimator)

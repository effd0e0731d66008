"""
Classify pairs of texts
=======================

Are two sentences about the same topic? They are first sentences of docstrings, the topic is the
submodule they come from (scipy.stats, torch.nn, ...), and every sentence is in one pair only. Most
pairs on one topic have no word in common, so that a model must know what the words mean.

A ``PairClassifier`` is fine-tuned on them, compared with the words that both texts share, and the
way in which the two texts meet, its ``interaction``, is chosen by ``GridSearchCV``.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no windows
import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, classification_report
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit, train_test_split
from sklearn.pipeline import make_pipeline

from sktransformers import PairClassifier
from sktransformers.datasets import load_docstring_pairs
from sktransformers.plotting import HistoryDisplay

OUTPUT = Path(__file__).parent / "output"
start = time.perf_counter()

X, y = load_docstring_pairs(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=600, test_size=400, stratify=y, random_state=0
)
print(f"{len(X)} pairs, {len(X_train)} to train on, {len(X_test)} to test on\n")
for (a, b), label in zip(X_train[:4], y_train):
    print(f"{label}:\n    {a}\n    {b}")

# %%
# The baseline
# ------------
# TF-IDF vectors of both texts give three kinds of features: how much of each word both have, how
# similar the vectors are, and what either of the two has.


class Overlap(TransformerMixin, BaseEstimator):
    """Features of a pair from the TF-IDF vectors of its texts."""

    def fit(self, X, y=None):
        self.vectorizer_ = TfidfVectorizer(sublinear_tf=True).fit(
            [text for row in X for text in row]
        )
        return self

    def transform(self, X):
        a, b = (self.vectorizer_.transform([row[side] for row in X]) for side in (0, 1))
        common = a.multiply(b)
        similarity = sparse.csr_array(np.asarray(common.sum(axis=1)).reshape(-1, 1))
        return sparse.hstack([common, similarity, abs(a - b)]).tocsr()


baseline = make_pipeline(Overlap(), LogisticRegression(C=10, max_iter=1000))
baseline.fit(X_train, y_train)

# %%
# How do the two texts meet?
# --------------------------
# Either the backbone reads them together (``"cross"``), or it reads each by itself and their
# vectors are joined. A part of the training pairs decides; the best is trained on all of them.

search = GridSearchCV(
    PairClassifier(random_state=0),
    {"interaction": ["cross", "concat", "product", "all"]},
    cv=StratifiedShuffleSplit(n_splits=1, train_size=300, test_size=200, random_state=0),
)
search.fit(X_train, y_train)
clf = search.best_estimator_

print("\naccuracy on 200 of the training pairs, trained on 300 others")
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    print(f"{params['interaction']:<30}{score:8.3f}")

# %%
# On other pairs
# --------------

print(f"\naccuracy on {len(X_test)} other pairs")
print(f"{'words in common':<30}{baseline.score(X_test, y_test):8.3f}")
print(f"{'PairClassifier, ' + clf.interaction:<30}{clf.score(X_test, y_test):8.3f}")

y_pred = clf.predict(X_test)
print(f"\n{classification_report(y_test, y_pred)}")
for (a, b), truth, row in zip(X_test[:3], y_test, clf.predict_proba(X_test[:3])):
    shown = ", ".join(f"{name} {p:.2f}" for name, p in zip(clf.classes_, row))
    print(f"{a}\n{b}\n    is {truth}, predicted: {shown}")

# %%
# Plots
# -----

fig, (left, right) = plt.subplots(ncols=2, figsize=(8, 3.6), layout="constrained")
HistoryDisplay.from_estimator(clf, ax=left)
left.set_title(f"fine-tuning on {len(X_train)} pairs")
ConfusionMatrixDisplay.from_predictions(y_test, y_pred, colorbar=False, ax=right)
right.set_title(f"{len(X_test)} other pairs")
OUTPUT.mkdir(exist_ok=True)
fig.savefig(OUTPUT / "pairs.png", dpi=120)
plt.close(fig)
print("\nsaved pairs.png in examples/output")
print(f"{time.perf_counter() - start:.0f} seconds in all")

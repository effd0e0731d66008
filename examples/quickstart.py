"""Fine-tune a transformer on 600 sentences and compare it with TF-IDF.

The text is real and on every machine: first sentences of docstrings. The label is the package they
come from (numpy, scipy, scikit-learn or torch), or with `--labels module` their topic (scipy.stats,
torch.nn, ...). Names of packages are masked, so the answer is not in the text.
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no windows
import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, classification_report
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sktransformers import TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings
from sktransformers.plotting import HistoryDisplay

OUTPUT = Path(__file__).parent / "output"
TRAIN_SIZES = (100, 300, 600)
TEST_SIZE = 1000


def make_tfidf():
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000),
    )


def plot_confusion(y_true, y_pred, classes):
    size = 3 + 0.4 * len(classes)
    fig, ax = plt.subplots(figsize=(size, size), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        y_true, y_pred, labels=classes, xticks_rotation="vertical", colorbar=False, ax=ax
    )
    fig.savefig(OUTPUT / "confusion_matrix.png", dpi=120)
    plt.close(fig)


def plot_curves(scores, clf):
    fig, (left, right) = plt.subplots(ncols=2, figsize=(9, 3.8), layout="constrained")
    for name, accuracies in scores.items():
        left.plot(TRAIN_SIZES, accuracies, marker="o", label=name)
    left.set(xlabel="training rows", ylabel="accuracy on the test rows", xticks=TRAIN_SIZES)
    left.legend()
    HistoryDisplay.from_estimator(clf, ax=right)
    right.set_title(f"fine-tuning on {TRAIN_SIZES[-1]} rows")
    fig.savefig(OUTPUT / "learning_curves.png", dpi=120)
    plt.close(fig)


def main(labels):
    start = time.perf_counter()
    X, y = load_docstrings(labels=labels, return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=TRAIN_SIZES[-1], test_size=TEST_SIZE, stratify=y, random_state=0
    )
    print(f"{len(X)} sentences, {len(set(y))} labels; {len(X_train)} rows to train on\n")

    # Both models, on more and more rows. The last one, on all of them, is shown below.
    scores = {"TF-IDF + logistic regression": [], "fine-tuned transformer": []}
    for n in TRAIN_SIZES:
        tfidf = make_tfidf().fit(X_train[:n], y_train[:n])
        clf = TransformerSequenceClassifier(verbose=1, random_state=0)
        clf.fit(X_train[:n], y_train[:n])
        y_pred = clf.predict(X_test)
        scores["TF-IDF + logistic regression"].append(tfidf.score(X_test, y_test))
        scores["fine-tuned transformer"].append(accuracy_score(y_test, y_pred))

    print(f"\naccuracy on {len(X_test)} other rows")
    print(f"{'training rows':<30}" + "".join(f"{n:>8}" for n in TRAIN_SIZES))
    for name, accuracies in scores.items():
        print(f"{name:<30}" + "".join(f"{accuracy:8.3f}" for accuracy in accuracies))

    print(f"\n{classification_report(y_test, y_pred, zero_division=0)}")

    for text, truth, row in zip(X_test[:5], y_test[:5], clf.predict_proba(X_test[:5])):
        best = row.argsort()[::-1][:3]
        print(f"{text}\n    is {truth}, predicted:", end=" ")
        print(", ".join(f"{clf.classes_[i]} {row[i]:.2f}" for i in best))

    OUTPUT.mkdir(exist_ok=True)
    plot_confusion(y_test, y_pred, clf.classes_)
    plot_curves(scores, clf)
    print("\nsaved confusion_matrix.png and learning_curves.png in examples/output")
    print(f"{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", choices=["package", "module"], default="package")
    main(parser.parse_args().labels)

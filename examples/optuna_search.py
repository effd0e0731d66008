"""Search learning rate, batch size and what is fine-tuned with Optuna, on 300 sentences.

The text is real and on every machine: first sentences of docstrings, labelled with the package they
come from. Each trial is scored by cross-validation; the best one is fitted again on all rows, as
scikit-learn's own searches do. Trials share what the frozen blocks give, in a folder.

    pip install "sktransformers[offline]" optuna optuna-integration
"""

import tempfile
import time
import warnings

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna_integration import OptunaSearchCV
from sklearn.model_selection import StratifiedKFold, train_test_split

from sktransformers import TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings

N_TRAIN, N_TEST, N_TRIALS = 300, 500, 6
DISTRIBUTIONS = {
    "lr": FloatDistribution(3e-5, 1e-3, log=True),
    "batch_size": CategoricalDistribution([8, 16, 32]),
    "finetune": CategoricalDistribution([1, 2, "full"]),  # blocks from the top, or all
}


def main():
    start = time.perf_counter()
    warnings.simplefilter("ignore", ExperimentalWarning)  # OptunaSearchCV's, about itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    X, y = load_docstrings(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=N_TRAIN, test_size=N_TEST, stratify=y, random_state=0
    )
    with tempfile.TemporaryDirectory() as folder:
        search = OptunaSearchCV(
            TransformerSequenceClassifier(max_epochs=2, random_state=0, memory=folder),
            DISTRIBUTIONS,
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
            n_trials=N_TRIALS,
            random_state=0,
        )
        search.fit(X_train, y_train)

    print("accuracy  parameters")
    for trial in sorted(search.trials_, key=lambda trial: -trial.value):
        params = {k: round(v, 6) if k == "lr" else v for k, v in trial.params.items()}
        print(f"   {trial.value:.3f}  {params}")
    print(f"\nbest parameters: {search.best_params_}")
    print(f"accuracy in cross-validation: {search.best_score_:.3f}")
    print(f"accuracy on {len(X_test)} other rows: {search.score(X_test, y_test):.3f}")
    print(f"{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    main()

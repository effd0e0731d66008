"""
Tag the words of sentences
==========================

What is each word of a line of Python for? The lines are statements of the standard library, cut
into words; the tags say which words are called, defined, imported, raised, ... They mark spans in
BIO notation, as those of named entities do: ``os.path.join`` is one span of five words.

A ``TokenTagger`` is fine-tuned on a few hundred lines and compared with the most frequent tag of
each word. ``GridSearchCV`` decides whether a CRF is worth its time.
"""

import time
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no windows
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit

from sktransformers import TokenTagger
from sktransformers.datasets import load_python_tokens
from sktransformers.metrics import span_classification_report, span_f1_score, span_f1_scorer

OUTPUT = Path(__file__).parent / "output"
start = time.perf_counter()

code = load_python_tokens(max_samples=1200)
# Modules are either trained on or tested on: lines of one module are alike.
split = GroupShuffleSplit(n_splits=1, train_size=0.5, random_state=0)
train, test = next(split.split(code.data, groups=code.groups))
X_train, X_test = ([code.data[i] for i in rows] for rows in (train, test))
y_train, y_test = code.target[train], code.target[test]
print(f"{len(X_train)} lines to train on, {len(X_test)} lines of other modules to test on\n")
for words, tags in zip(X_train[:4], y_train):
    print(" ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in zip(words, tags)))

# %%
# The baseline
# ------------
# The tag that a word had most often; words that were not seen are outside of all spans.

seen = defaultdict(Counter)
for words, tags in zip(X_train, y_train):
    for word, tag in zip(words, tags):
        seen[word][tag] += 1
most_frequent = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
y_baseline = [[most_frequent.get(word, "O") for word in words] for words in X_test]

# %%
# With or without a CRF?
# ----------------------
# A CRF scores the tags of a line together and never lets ``I-function`` follow ``B-variable``.

search = GridSearchCV(
    TokenTagger(random_state=0),
    {"crf": [False, True]},
    scoring=span_f1_scorer,
    cv=GroupKFold(n_splits=2),
)
search.fit(X_train, y_train, groups=code.groups[train])
tagger = search.best_estimator_

print("\nspan F1 on one half of the training lines, trained on the other; mean of both halves")
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    print(f"{'crf=' + str(params['crf']):<30}{score:8.3f}")

# %%
# On other modules
# ----------------

y_pred = tagger.predict(X_test)
print(f"\nspan F1 on {len(X_test)} lines of other modules")
print(f"{'most frequent tag of the word':<30}{span_f1_score(y_test, y_baseline):8.3f}")
print(f"{'TokenTagger, crf=' + str(tagger.crf):<30}{span_f1_score(y_test, y_pred):8.3f}")
print(f"\n{span_classification_report(y_test, y_pred, zero_division=0.0)}")

# %%
# Spans in a text
# ---------------
# A tagger that was trained on lists of words reads texts as well, once it is told how to split
# them. Spans then know where they are in the text.

line = "results[name] = json.loads(text, parse_int=self.number)"
tagger.set_params(tokenize="regex")
print(line)
for span in tagger.predict_spans([line])[0]:
    shown = line[span.char_start : span.char_end]
    print(f"    {shown:<15}{span.type:<12}{span.score:.2f}")
tagger.set_params(tokenize=None)

# %%
# Plot
# ----

types = sorted({tag[2:] for tags in y_test for tag in tags if tag != "O"})
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for shift, (name, tags) in zip(
    (0.2, -0.2), {"most frequent tag": y_baseline, "TokenTagger": y_pred}.items()
):
    scores = span_f1_score(y_test, tags, average=None, labels=types, zero_division=0.0)
    ax.barh(np.arange(len(types)) + shift, scores, height=0.4, label=name)
ax.set(xlabel="span F1 on other modules", yticks=range(len(types)), yticklabels=types, xlim=(0, 1))
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
OUTPUT.mkdir(exist_ok=True)
fig.savefig(OUTPUT / "tagging.png", dpi=120)
plt.close(fig)
print("\nsaved tagging.png in examples/output")
print(f"{time.perf_counter() - start:.0f} seconds in all")

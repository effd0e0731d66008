"""
Prompt a language model, then fine-tune it
==========================================

A ``Text2TextClassifier`` predicts with the words of labels: it can be asked before it has seen a
labelled row (zero-shot), shown some rows in its prompt (few-shot), and trained on them. One grid
compares all of it.

So that this runs without a network, the language model is a T5 of two layers a side, and its
language is made up: there are twelve topics with fifteen words each, and words that say nothing. It
is first trained to name the topic of a text, which is all the knowledge of the world that it has.
With a network, leave that out and take ``backbone="google/flan-t5-small"`` and a language of yours.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no windows
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from sktransformers import Backbone, Text2TextClassifier

OUTPUT = Path(__file__).parent / "output"
start = time.perf_counter()
rng = np.random.default_rng(0)

# %%
# A language
# ----------

SYLLABLES = ["ba", "do", "fi", "ga", "ku", "le", "mo", "na", "pi", "ru", "so", "ti", "vu", "zo"]
WORDS = rng.permutation([a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES])
TOPICS = {name: WORDS[i * 15 : i * 15 + 15] for i, name in enumerate(WORDS[-12:])}
FILLERS = WORDS[300:340]


def make_texts(n, names):
    """n texts, and the topic of each, one after the other."""
    topics = np.resize(names, n)
    texts = []
    for topic in topics:
        words = [*rng.choice(TOPICS[topic], 2), *rng.choice(FILLERS, rng.integers(3, 12))]
        texts.append(" ".join(rng.permutation(words)))
    return texts, topics


def make_t5():
    """A T5 with random weights, and its tokenizer."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = [*special, *WORDS.tolist(), "classify:"]
    backend = Tokenizer(models.WordLevel(dict(zip(vocabulary, range(10**6))), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return Backbone(T5ForConditionalGeneration(config), tokenizer=tokenizer)


X, y = make_texts(2400, list(TOPICS))
teacher = Text2TextClassifier(make_t5(), lr=3e-3, max_epochs=6, batch_size=32, random_state=0)
teacher.fit(X, y)
pretrained = Backbone(teacher.model_.native, tokenizer=teacher.tokenizer_)
X, y = make_texts(300, list(TOPICS))
print(f"The topics of other texts are named rightly: {teacher.score(X, y):.3f}")

# %%
# A task
# ------
# Letters go to three departments. Each of them is for two of the topics, but its label words name
# only one.

names = list(TOPICS)
DEPARTMENTS = {"billing": names[0:2], "delivery": names[2:4], "repairs": names[4:6]}
label_words = {department: topics[0] for department, topics in DEPARTMENTS.items()}
department_of = {topic: name for name, topics in DEPARTMENTS.items() for topic in topics}


def make_letters(n):
    texts, topics = make_texts(n, list(department_of))
    return texts, np.array([department_of[topic] for topic in topics])


X, y = make_letters(200)
X_test, y_test = make_letters(1000)
clf = Text2TextClassifier(
    pretrained, label_words=label_words, lr=1e-3, max_epochs=10, batch_size=8, random_state=0
)

clf.fit(None, list(DEPARTMENTS))
zero_shot = clf.score(X_test, y_test)
print(f"\nasked without a labelled row: accuracy {zero_shot:.3f} on {len(X_test)} letters")
for text, row in zip(X_test[:3], clf.predict_proba(X_test[:3])):
    shown = ", ".join(f"{name} {p:.2f}" for name, p in zip(clf.classes_, row))
    print(f"    {text}\n        {shown}")

# %%
# Prompting and fine-tuning in one grid
# -------------------------------------
# ``finetune=None`` trains nothing. This model has never seen a prompt with examples in it.

grid = {"finetune": [None, "full"], "examples_in_prompt": [0, 3]}
split = StratifiedShuffleSplit(n_splits=1, train_size=100, test_size=100, random_state=0)
search = GridSearchCV(clf, grid, cv=split).fit(X, y)
print("\naccuracy on 100 letters, with 100 others to learn from")
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    shown = ", ".join(f"{name}={value!r}" for name, value in params.items())
    print(f"    {shown:<45}{score:8.3f}")

# %%
# How many rows does it take?
# ---------------------------

SIZES = (6, 12, 25, 50, 100)
scores = {"from random weights": [], "from the language model": []}
for n in SIZES:
    for name, backbone in zip(scores, (make_t5(), pretrained)):
        clf.set_params(backbone=backbone, finetune="full").fit(X[:n], y[:n])
        scores[name].append(clf.score(X_test, y_test))

print(f"\naccuracy on {len(X_test)} letters")
print(f"{'labelled rows':<30}" + "".join(f"{n:>8}" for n in SIZES))
for name, accuracies in scores.items():
    print(f"{name:<30}" + "".join(f"{accuracy:8.3f}" for accuracy in accuracies))

fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name, accuracies in scores.items():
    ax.plot(SIZES, accuracies, marker="o", label=f"fine-tuned {name}")
ax.axhline(zero_shot, color="gray", linestyle="--", label="asked without a labelled row")
ax.set(xlabel="labelled rows", ylabel=f"accuracy on {len(X_test)} letters", xscale="log")
ax.set_xticks(SIZES, SIZES)
ax.minorticks_off()
ax.legend()
OUTPUT.mkdir(exist_ok=True)
fig.savefig(OUTPUT / "prompting.png", dpi=120)
plt.close(fig)
print("\nsaved prompting.png in examples/output")
print(f"{time.perf_counter() - start:.0f} seconds in all")

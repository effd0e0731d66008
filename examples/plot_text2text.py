"""
One model that translates, summarises, answers and classifies
=============================================================

A text-to-text model learns several tasks at once: the prefix of a row says which one is meant. Here
a tiny T5 with random weights learns all four in some seconds, in a made-up language of a few words,
so that nothing is downloaded. With a pretrained model take its name as ``backbone``, such as
``"google/flan-t5-small"``, and your own texts; all else stays as it is.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from sktransformers import Text2TextGenerator

WHO = {"gato": "cat", "cão": "dog", "cavalo": "horse", "menina": "girl"}
HOW = {"velho": "old", "novo": "young", "grande": "big", "só": "lonely"}
DOES = {"come": "eats", "vê": "sees", "leva": "takes"}
WHAT = {"pão": "bread", "livro": "book", "queijo": "cheese", "arroz": "rice"}
NAMES = ("ana", "rui", "eva", "leo")
CITIES = ("rome", "oslo", "lima", "cairo")
ENGLISH = (*WHO.values(), *HOW.values(), *WHAT.values())
PORTUGUESE = (*WHO, *HOW, *WHAT)


# %%
# Four tasks
# ----------
# Translation changes the order of words, a summary keeps what is written in capitals, an answer is
# looked up in the context, and a class is a word too.


def translation(rng):
    """A sentence, and its translation."""
    who, how, does, what = (rng.choice(list(words)) for words in (WHO, HOW, DOES, WHAT))
    target = f"the {HOW[how]} {WHO[who]} {DOES[does]} the {WHAT[what]}"
    return f"o {who} {how} {does} o {what}", target


def summary(rng):
    """A report in which two words matter, and these words, the adjective first."""
    how, who = (rng.choice(list(words.values())) for words in (HOW, WHO))
    others = rng.choice([*ENGLISH, "the", "in"], rng.integers(2, 7))
    return " ".join(rng.permutation([how.upper(), who.upper(), *others])), f"{how} {who}"


def answer(rng):
    """A question with its context, and the answer."""
    facts = {
        "who": rng.choice(NAMES),
        "where": rng.choice(CITIES),
        "what": rng.choice(list(WHAT.values())),
    }
    forms = ("{who} sees a {what} in {where}", "in {where} {who} has the {what}")
    question = rng.choice(list(facts))
    context = forms[rng.integers(len(forms))].format(**facts)
    return f"{question} context: {context}", str(facts[question])


def language(rng):
    """Words of one language, and its name."""
    name, words = [("english", ENGLISH), ("portuguese", PORTUGUESE)][rng.integers(2)]
    return " ".join(rng.choice(words, rng.integers(3, 7))), name


TASKS = {
    "translate: ": translation,
    "summarize: ": summary,
    "question: ": answer,
    "classify: ": language,
}


def rows(prefix, n, seed):
    """Some sources and targets of a task, all sources different."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < n:
        source, target = TASKS[prefix](rng)
        found[source] = target
    return list(found), list(found.values())


def tokenizer():
    """A token for every word of the made-up language."""
    words = [*PORTUGUESE, *ENGLISH, *DOES, *DOES.values(), *NAMES, *CITIES]
    words += [word.upper() for word in (*WHO.values(), *HOW.values())]
    words += "o a the in has who where what context: english portuguese".split()
    words += [prefix.strip() for prefix in TASKS]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save_tiny_t5(directory):
    """Write a T5 of 200,000 random weights and its tokenizer."""
    words = tokenizer()
    config = T5Config(
        vocab_size=len(words),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(directory)
    words.save_pretrained(directory)
    return str(directory)


# %%
# Training
# --------
# ``prefix`` has an entry for each row. Of every task 150 rows are learnt, and others are scored.


def data(n, seed):
    """Sources, targets and prefixes of all tasks."""
    sources, targets, prefixes = [], [], []
    for prefix in TASKS:
        X, y = rows(prefix, n, seed)
        sources += X
        targets += y
        prefixes += [prefix] * n
    return np.array(sources, dtype=object), np.array(targets, dtype=object), np.array(prefixes)


def split(n_train, n_test, seed=0):
    """The same in two parts, no source in both."""
    X, y, prefix = data(n_train + n_test, seed)
    is_train = np.tile(np.arange(n_train + n_test) < n_train, len(TASKS))
    return (X[is_train], y[is_train], prefix[is_train]), (
        X[~is_train],
        y[~is_train],
        prefix[~is_train],
    )


def main():
    """Train, show some answers, and search."""
    start = time.perf_counter()
    directory = tempfile.mkdtemp()
    (X, y, prefix), (X_test, y_test, prefix_test) = split(150, 40)
    model = Text2TextGenerator(
        save_tiny_t5(directory),
        max_epochs=12,
        lr=5e-3,
        batch_size=32,
        max_target_length=10,
        metric="exact_match",
        random_state=0,
    )
    model.fit(X, y, prefix=prefix)
    print("loss:", " ".join(f"{row['train_loss']:.2f}" for row in model.history_), "\n")
    for task in TASKS:
        of_task = prefix_test == task
        sources = X_test[of_task]
        found = model.predict(sources, prefix=task)
        score = model.score(sources, y_test[of_task], prefix=task)
        print(f"{task}{sources[0]}\n    -> {found[0]}   (exact match of 40 others: {score:.2f})")

    # %%
    # How answers are written is a parameter like others
    # --------------------------------------------------
    of_task = prefix == "translate: "
    search = GridSearchCV(
        Text2TextGenerator(
            directory,
            prefix="translate: ",
            max_epochs=10,
            batch_size=32,
            max_target_length=10,
            metric="bleu",
            random_state=0,
        ),
        {"lr": [1e-3, 5e-3], "generation": [None, {"num_beams": 3}]},
        cv=2,
    )
    search.fit(X[of_task], y[of_task])
    print("\nBLEU of translations, by cross-validation:")
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"    {params}: {score:.2f}")
    print(f"\n{time.perf_counter() - start:.0f} s, model in {Path(directory)}")


if __name__ == "__main__":
    main()

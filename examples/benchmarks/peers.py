"""What a user would run instead, each as a function fit_predict(...) -> Run."""

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch
import transformers


@dataclass
class Run:
    """One training."""

    fit_seconds: float
    score: float
    tokens_per_second: float = float("nan")

    @property
    def accuracy(self):
        """The score, where there are labels to predict."""
        return self.score


@dataclass
class Rows:
    """Training and test rows with their targets.

    X holds texts, pairs of texts or lists of words, y labels, floats or lists of tags.
    """

    X: list
    y: list
    X_test: list
    y_test: list

    @property
    def task(self):
        """What the targets are: "labels", "numbers" or "tags"."""
        first = self.y[0]
        return {list: "tags", float: "numbers"}.get(type(first), "labels")

    @property
    def spans(self):
        """Whether tags mark spans (BIO)."""
        return self.task == "tags" and any(tag[:2] == "B-" for tags in self.y_test for tag in tags)

    @property
    def metric(self):
        """What `score` returns."""
        if self.task == "tags":
            return "span F1" if self.spans else "word accuracy"
        return "Pearson r" if self.task == "numbers" else "accuracy"

    def score(self, predicted):
        """Accuracy, Pearson's r, span F1 of seqeval or accuracy over words."""
        if self.task == "numbers":
            return float(np.corrcoef(self.y_test, predicted)[0, 1])
        if self.spans:
            from seqeval.metrics import f1_score

            return float(f1_score(self.y_test, predicted))
        if self.task == "labels":
            return float(np.mean(np.asarray(predicted) == np.asarray(self.y_test)))
        pairs = zip(self.y_test, predicted, strict=True)
        return float(np.mean([a == b for row in pairs for a, b in zip(*row, strict=True)]))


def tfidf(rows: Rows) -> Run:
    """TF-IDF of words and word pairs, logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000),
    )
    begin = time.perf_counter()
    model.fit(rows.X, rows.y)
    return Run(time.perf_counter() - begin, rows.score(model.predict(rows.X_test)))


def embeddings(rows: Rows, backbone: str) -> Run:
    """Normalised mean-pooled vectors of the frozen backbone, logistic regression."""
    from sklearn.linear_model import LogisticRegression

    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    model = transformers.AutoModel.from_pretrained(backbone).eval()

    def vectors(texts):
        out = []
        for i in range(0, len(texts), 32):
            batch = tokenizer(
                texts[i : i + 32],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out.append(torch.nn.functional.normalize(mean).numpy())
        return np.concatenate(out)

    begin = time.perf_counter()
    classifier = LogisticRegression(max_iter=1000).fit(vectors(rows.X), rows.y)
    seconds = time.perf_counter() - begin
    return Run(seconds, rows.score(classifier.predict(vectors(rows.X_test))))


def trainer(
    rows: Rows,
    backbone: str,
    *,
    lr,
    epochs,
    batch_size,
    seed,
    max_length=256,
    trained_blocks=None,
    weight_decay=0.01,
    **arguments,
) -> Run:
    """transformers.Trainer with its own head, linear schedule and 10 % warm-up.

    A word has the tag of its first piece. Words behind max_length tokens are tagged O. With
    trained_blocks only the head and so many of the top blocks are trained.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    tagging = rows.task == "tags"
    family = (
        transformers.AutoModelForTokenClassification
        if tagging
        else transformers.AutoModelForSequenceClassification
    )
    names = {
        "tags": lambda: sorted({tag for tags in rows.y for tag in tags}),
        "labels": lambda: sorted(set(rows.y)),
        "numbers": lambda: [None],
    }[rows.task]()
    model = family.from_pretrained(backbone, num_labels=len(names))
    if trained_blocks is not None:
        model.base_model.requires_grad_(False)
        blocks = model.base_model.encoder.layer
        for block in blocks[len(blocks) - trained_blocks :]:
            block.requires_grad_(True)

    def encode(X, y=None):
        """Rows for the Trainer, and for words the positions of their first pieces."""
        columns = zip(*X) if isinstance(X[0], tuple) else [X]
        encoded = tokenizer(
            *map(list, columns), is_split_into_words=tagging, truncation=True, max_length=max_length
        )
        data = [{key: encoded[key][i] for key in encoded} for i in range(len(X))]
        firsts = [first_pieces(encoded.word_ids(i)) for i in range(len(X))] if tagging else []
        for i, row in enumerate(data if y is not None else []):
            if tagging:
                row["labels"] = [-100] * len(row["input_ids"])
                for word, at in firsts[i].items():
                    row["labels"][at] = names.index(y[i][word])
            else:
                row["labels"] = y[i] if rows.task == "numbers" else names.index(y[i])
        return data, firsts

    begin = time.perf_counter()
    data, _ = encode(rows.X, rows.y)
    steps = epochs * -(-len(data) // batch_size)
    collator = (
        transformers.DataCollatorForTokenClassification
        if tagging
        else transformers.DataCollatorWithPadding
    )
    with tempfile.TemporaryDirectory() as output:
        loop = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                output,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=64,
                learning_rate=lr,
                warmup_steps=max(1, steps // 10),
                weight_decay=weight_decay,
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **arguments,
            ),
            train_dataset=data,
            data_collator=collator(tokenizer),
        )
        loop.remove_callback(transformers.PrinterCallback)
        loop.train()
        seconds = time.perf_counter() - begin
        # Grouping would return predictions in another order than the rows.
        loop.args.train_sampling_strategy = "random"
        test, firsts = encode(rows.X_test)
        logits = loop.predict(test).predictions
    tokens = epochs * sum(len(row["input_ids"]) for row in data)
    if tagging:
        outside = "O" if "O" in names else names[0]
        predicted = [[outside] * len(words) for words in rows.X_test]
        for i, places in enumerate(firsts):
            for word, at in places.items():
                predicted[i][word] = names[logits[i, at].argmax()]
    elif rows.task == "numbers":
        predicted = logits[:, 0]
    else:
        predicted = [names[i] for i in logits.argmax(1)]
    return Run(seconds, rows.score(predicted), tokens / seconds)


def first_pieces(word_ids):
    """Position of the first piece of each word that is read."""
    found = {}
    for at, word in enumerate(word_ids):
        if word is not None:
            found.setdefault(word, at)
    return found

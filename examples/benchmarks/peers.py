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
    accuracy: float
    tokens_per_second: float = float("nan")


@dataclass
class Rows:
    """Training and test texts with their labels."""

    X: list
    y: list
    X_test: list
    y_test: list

    def accuracy(self, predicted):
        """Share of test labels that are right."""
        return float(np.mean(np.asarray(predicted) == np.asarray(self.y_test)))


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
    return Run(time.perf_counter() - begin, rows.accuracy(model.predict(rows.X_test)))


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
    return Run(seconds, rows.accuracy(classifier.predict(vectors(rows.X_test))))


def trainer(
    rows: Rows, backbone: str, *, lr, epochs, batch_size, seed, max_length=256, **arguments
) -> Run:
    """transformers.Trainer with its own head, linear schedule and 10 % warm-up."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    names = sorted(set(rows.y))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=len(names)
    )

    def encode(texts, labels=None):
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
        data = [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]
        for row, label in zip(data, labels or []):
            row["labels"] = names.index(label)
        return data

    begin = time.perf_counter()
    data = encode(rows.X, rows.y)
    steps = epochs * -(-len(data) // batch_size)
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
                weight_decay=0.01,
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **arguments,
            ),
            train_dataset=data,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        loop.remove_callback(transformers.PrinterCallback)
        loop.train()
        seconds = time.perf_counter() - begin
        # Grouping would return predictions in another order than the rows.
        loop.args.train_sampling_strategy = "random"
        logits = loop.predict(encode(rows.X_test)).predictions
    tokens = epochs * sum(len(row["input_ids"]) for row in data)
    predicted = [names[i] for i in logits.argmax(1)]
    return Run(seconds, rows.accuracy(predicted), tokens / seconds)

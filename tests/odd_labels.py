"""A dozen texts, pairs and sentences whose labels and tags are not ASCII."""

from conftest import make_texts

TEXTS, _ = make_texts(12)
LABELS = ["não", "política", "sim"] * 4
NEW = ["fish bread", *TEXTS[:3], "the very salty onda"]  # not longer than any backbone reads
PAIRS = [(a, b) for a, b in zip(TEXTS, TEXTS[1:] + TEXTS[:1])]
WORDS = [text.split() for text in TEXTS]
TAGS = [["pão" if "ã" in word else "O" for word in words] for words in WORDS]
LITTLE = {"max_epochs": 1, "batch_size": 6, "device": "cpu", "random_state": 0, "lr": 1e-3}

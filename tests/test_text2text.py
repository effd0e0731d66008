"""Text2TextGenerator: loss, answers, prefixes, strategies, and four tasks that one model learns."""

import importlib.util
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_texts
from language_models import (
    DECODERS,
    LANGUAGE_MODELS,
    language_model,
    language_tokenizer,
    make_t5,
    save_language_model,
    word_tokenizer,
)
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    ByT5Tokenizer,
    GenerationConfig,
)

from sktransformers import (
    Backbone,
    BitFit,
    CrossEntropy,
    GradualUnfreezing,
    LoRA,
    RandomSwap,
    Replay,
    Text2TextGenerator,
    TransformerSequenceClassifier,
)
from sktransformers.inputs.batching import Encoded, Ragged, pad
from sktransformers.inputs.prompts import TargetEncoder, with_targets
from sktransformers.metrics import exact_match_scorer

X = make_texts(24)[0]
Y = [" ".join(reversed(text.split()[:2])) for text in X]


def make(kind="t5", **params):
    defaults = {
        "backbone": language_model(kind),
        "lr": 3e-3,
        "max_epochs": 1,
        "batch_size": 8,
        "max_length": 40,
        "max_target_length": 18,
        "device": "cpu",
        "random_state": 0,
    }
    return Text2TextGenerator(**{**defaults, **params})


# Adam would make steps of gradients that are rounding errors.
PLAIN_STEPS = {"optimizer": "sgd", "lr": 0.1}


def assert_same_weights(one, other):
    fresh = Text2TextGenerator.from_pretrained(one.backbone, max_target_length=9)
    start = dict(fresh.model_.named_parameters())
    others = dict(other.model_.named_parameters())
    for name, weight in one.model_.named_parameters():
        assert_allclose(weight.detach(), others[name].detach(), atol=2e-5)
    assert max((start[name] - weight).abs().max() for name, weight in others.items()) > 1e-3


def quietly(function, *args, **kwargs):
    """Tiny random models write until they are stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*args, **kwargs)


@pytest.fixture(scope="module")
def as_they_are():
    """Estimators on the random models, by kind."""
    return {kind: make(kind).from_pretrained(**pretrained(kind)) for kind in LANGUAGE_MODELS}


def pretrained(kind, **params):
    given = make(kind, **params).get_params(deep=False)
    return {"name": given.pop("backbone"), **given}


# --------------------------------------------------------------------- loss


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_the_loss_is_that_of_the_family(kind):
    reg = make(kind, max_epochs=1, lr=1e-12, warmup=0, batch_size=len(X), weight_decay=0)
    reg.backbone = Backbone(reg.backbone, dropout=0.0)
    reg.fit(X, Y)
    tokenizer = reg.tokenizer_
    auto = AutoModelForCausalLM if kind in DECODERS else AutoModelForSeq2SeqLM
    native = auto.from_pretrained(language_model(kind)).eval()
    losses, sizes = [], []
    for source, target in zip(X, Y):
        if kind in DECODERS:
            read = tokenizer(source + "\n")["input_ids"]
            written = tokenizer(target, add_special_tokens=False)["input_ids"]
            written = [*written, tokenizer.eos_token_id]
            ids = torch.tensor([read + written])
            labels = torch.tensor([[-100] * len(read) + written])
        else:
            ids = torch.tensor([tokenizer(source)["input_ids"]])
            written = tokenizer(text_target=target)["input_ids"]
            labels = torch.tensor([written])
        with torch.no_grad():
            losses.append(native(input_ids=ids, labels=labels).loss.item() * len(written))
        sizes.append(len(written))
    assert_allclose(reg.history_[0]["train_loss"], sum(losses) / sum(sizes), rtol=1e-5)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_batch_is_the_rows_one_by_one(kind, as_they_are):
    """Padding changes no logit, wherever it stands."""
    reg = as_they_are[kind]
    model, tokenizer = reg.model_, reg.tokenizer_
    is_open = kind in DECODERS
    sources = reg._make_encoder(model, tokenizer, 40).encode(reg._check_X(X[:5])).encoded
    rows = with_targets(sources, TargetEncoder(tokenizer, 12, is_open).read(Y[:5])[0])

    def logits(rows):
        both = [pad(rows, texts, 1, torch.device("cpu")) for texts in rows.rows.T]
        with torch.no_grad():
            return model.token_logits(*(both[i][n] for i in (0, 1) for n in both[i]))

    one_by_one = [logits(rows.take(np.array([i]))) for i in range(5)]
    assert_allclose(logits(rows), torch.cat(one_by_one), atol=2e-5)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_the_budget_changes_no_weight(kind):
    backbone = Backbone(language_model(kind), dropout=0.0)
    whole, parts = (
        make(kind, backbone=backbone, max_batch_tokens=n, **PLAIN_STEPS).fit(X, Y)
        for n in (10_000, 60)
    )
    assert_same_weights(whole, parts)


def test_weights_are_as_rows_given_twice():
    options = {"backbone": Backbone(language_model("t5"), dropout=0.0), "batch_size": 100}
    options |= PLAIN_STEPS
    weighted = make(**options).fit(X[:6], Y[:6], sample_weight=[2, 1, 1, 1, 0, 1])
    repeated = make(**options).fit([X[0], *X[:4], X[5]], [Y[0], *Y[:4], Y[5]])
    assert_allclose(
        weighted.history_[0]["train_loss"], repeated.history_[0]["train_loss"], rtol=1e-5
    )
    assert_same_weights(weighted, repeated)


def test_label_smoothing_is_torchs():
    reg = make("t5", loss=CrossEntropy(label_smoothing=0.2), lr=1e-12, batch_size=100)
    reg.backbone = Backbone(language_model("t5"), dropout=0.0)
    reg.fit(X[:3], Y[:3])
    native = AutoModelForSeq2SeqLM.from_pretrained(language_model("t5")).eval()
    logits, labels = [], []
    for source, target in zip(X[:3], Y[:3]):
        ids = torch.tensor([reg.tokenizer_(source)["input_ids"]])
        written = torch.tensor([reg.tokenizer_(text_target=target)["input_ids"]])
        with torch.no_grad():
            logits.append(native(input_ids=ids, labels=written).logits[0])
        labels.append(written[0])
    expected = torch.nn.functional.cross_entropy(
        torch.cat(logits), torch.cat(labels), label_smoothing=0.2
    )
    assert_allclose(reg.history_[0]["train_loss"], expected, rtol=1e-5)


# ------------------------------------------------------------------ answers


def native_answer(reg, source, kind, **options):
    """What the family's own class writes for one source without padding."""
    prompt = source + "\n" if kind in DECODERS else source
    ids = torch.tensor([reg.tokenizer_(prompt)["input_ids"]])
    found = reg.model_.native.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=reg.max_target_length,
        do_sample=False,
        eos_token_id=reg.tokenizer_.eos_token_id,
        pad_token_id=reg.tokenizer_.eos_token_id,
        **options,
    )[0]
    written = found[ids.shape[1] :] if kind in DECODERS else found[1:]
    return reg.tokenizer_.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_answers_are_the_familys_own(kind, beams, as_they_are):
    reg = clone_fitted(as_they_are[kind], generation={"num_beams": beams})
    found = quietly(reg.predict, X[:8])
    reg.model_.native.generation_config.forced_eos_token_id = None  # BART's, which ours leaves out
    assert found.dtype == object and found.shape == (8,)
    assert found.tolist() == [native_answer(reg, text, kind, num_beams=beams) for text in X[:8]]


def clone_fitted(reg, **params):
    return pickle.loads(pickle.dumps(reg)).set_params(**params)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_answers_do_not_depend_on_other_rows(kind, as_they_are):
    reg = as_they_are[kind]
    rows = [*X, X[0], "", "pão"]
    whole = quietly(reg.predict, rows).tolist()
    assert whole[len(X)] == whole[0]
    backwards = quietly(reg.predict, rows[::-1]).tolist()
    assert backwards[::-1] == whole
    small = clone_fitted(reg, max_batch_tokens=1)
    assert quietly(small.predict, rows).tolist() == whole
    assert quietly(reg.predict, rows[4:5]).tolist() == whole[4:5]


def test_penalties_do_not_see_padding(as_they_are):
    # GPT-2 pads with its end token, which is made likely here, and may come but once.
    options = {"no_repeat_ngram_size": 1, "sequence_bias": [[[0], 1.5]]}
    reg = clone_fitted(as_they_are["gpt2"], generation=options)
    assert (
        quietly(reg.predict, X[:6]).tolist()
        == [quietly(reg.predict, [text])[0] for text in X[:6]]
        == [native_answer(reg, text, "gpt2", **options) for text in X[:6]]
    )


@pytest.mark.parametrize(
    ("kind", "options", "pads"),
    [
        ("llama", {}, True),
        ("llama", {"repetition_penalty": 1.2}, False),
        ("llama", {"no_repeat_ngram_size": 3}, False),
        ("t5", {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}, True),
        ("t5", {"encoder_repetition_penalty": 1.2}, False),
        ("t5", {"encoder_no_repeat_ngram_size": 2}, False),
        ("llama", {"min_length": 20}, False),
    ],
    ids=range(7),
)
def test_rows_of_one_length_go_together_where_padding_matters(
    kind, options, pads, as_they_are, monkeypatch
):
    reg = clone_fitted(as_they_are[kind], generation=options)
    generate, masks = type(reg.model_.native).generate, []

    def spy(self, **inputs):
        masks.append(inputs["attention_mask"])
        return generate(self, **inputs)

    monkeypatch.setattr(type(reg.model_.native), "generate", spy)
    quietly(reg.predict, X)
    assert all(mask.all() for mask in masks) != pads


def test_each_distinct_source_goes_through_once(as_they_are):
    reg, seen = clone_fitted(as_they_are["t5"]), []
    reg.model_.native.get_encoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    quietly(reg.predict, [X[0], X[1], X[0], X[0]])
    quietly(reg.predict, [X[0], X[0], X[0]], prefix=["a", "b", "b"])
    assert sum(seen) == 2 + 2
    quietly(reg.set_params(generation={"do_sample": True}).predict, [X[0]] * 5)
    assert sum(seen) == 2 + 2 + 5


def test_drawing_is_repeatable_and_leaves_global_states(as_they_are):
    reg = clone_fitted(as_they_are["t5"], generation={"do_sample": True}, random_state=3)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = quietly(reg.predict, X)
    assert (quietly(reg.predict, X) == first).all()
    assert (torch.get_rng_state() == torch_state).all()
    assert (np.random.get_state()[1] == numpy_state).all()
    assert (quietly(reg.set_params(random_state=4).predict, X) != first).any()
    assert len(set(quietly(reg.predict, [X[0]] * 20))) > 1  # equal sources are drawn each


def test_truncated_answers_are_counted(as_they_are):
    reg = clone_fitted(as_they_are["t5"], max_target_length=5)
    state = {name: value for name, value in vars(reg).items() if name != "model_"}
    texts, truncated = reg.generate(X[:6])
    with pytest.warns(UserWarning, match=rf"{truncated.sum()} of 6 answers.*max_target_length=5"):
        assert reg.predict(X[:6]).tolist() == texts.tolist()
    assert {k: v for k, v in vars(reg).items() if k != "model_"} == state
    ended = clone_fitted(reg, generation={"eos_token_id": list(range(len(reg.tokenizer_)))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended.predict(X[:6])
        assert not ended.generate(X[:6]).truncated.any()


def test_settings_in_the_files_of_a_checkpoint_are_read(tmp_path):
    native = AutoModelForSeq2SeqLM.from_pretrained(language_model("bart"))
    native.generation_config.num_beams = 3
    native.save_pretrained(tmp_path)
    language_tokenizer("bart").save_pretrained(tmp_path)
    for _ in range(2):  # from the files, and from memory
        reg = Text2TextGenerator.from_pretrained(tmp_path, device="cpu")
        assert reg.model_.native.generation_config.num_beams == 3


def test_room_for_answers_is_checked_before_training():
    backbone = language_model("gpt2")
    limit = AutoConfig.from_pretrained(backbone).n_positions
    params = {"generation": {"max_new_tokens": limit - 8}, "max_target_length": 4}
    reg = Text2TextGenerator.from_pretrained(backbone, device="cpu", **params)
    assert reg.max_length_ == 8
    with pytest.raises(ValueError, match="max_new_tokens of generation"):
        Text2TextGenerator(backbone, max_length=9, device="cpu", **params).fit(["a"], ["b"])


def test_files_without_the_layer_of_the_vocabulary(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(language_model("llama"))
    model.model.save_pretrained(tmp_path)
    language_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lack the layer of the vocabulary"):
        Text2TextGenerator(str(tmp_path), device="cpu").fit(["a"], ["b"])


def test_settings_of_a_checkpoint_hold_but_for_lengths_and_drawing(tmp_path):
    directory = language_model("bart")
    native = AutoModelForSeq2SeqLM.from_pretrained(directory)
    native.generation_config = GenerationConfig(
        num_beams=2,
        length_penalty=2.0,
        do_sample=True,
        min_length=10,
        max_length=11,
        forced_eos_token_id=2,
        decoder_start_token_id=2,
    )
    seen = []

    def generate(self, **inputs):
        seen.append(inputs["generation_config"])
        return torch.zeros(len(inputs["input_ids"]), 2, dtype=torch.long)

    tokenizer = make("bart").from_pretrained(**pretrained("bart")).tokenizer_
    reg = Text2TextGenerator.from_pretrained(
        Backbone(native, tokenizer=tokenizer), max_target_length=7
    )
    type(reg.model_.native).generate, kept = generate, type(reg.model_.native).generate
    try:
        reg.predict(["a"])
        reg.set_params(generation={"do_sample": True, "num_beams": 1, "max_new_tokens": 3})
        reg.predict(["a"])
        reg.set_params(generation=GenerationConfig(top_k=3, do_sample=True)).predict(["a"])
    finally:
        type(reg.model_.native).generate = kept
    own, changed, object_ = seen
    assert (own.num_beams, own.length_penalty, own.do_sample) == (2, 2.0, False)
    assert (own.max_new_tokens, own.min_length, own.forced_eos_token_id) == (7, None, None)
    assert (changed.num_beams, changed.length_penalty, changed.max_new_tokens) == (1, None, 3)
    assert (object_.top_k, object_.num_beams, object_.max_new_tokens) == (3, 2, 7)
    assert reg.model_.native.generation_config.max_length == 11  # as it was


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0; expected a float above"),
        ({"num_beam": 3}, "'num_beam', which is no setting.*did you mean 'num_beams'"),
        ({"num_beams": 0}, "num_beams=0; expected a whole number"),
        ({"max_length": 20}, "max_length=20.*max_target_length"),
        (GenerationConfig(max_length=20), "max_length=20.*max_target_length"),
        ({"num_return_sequences": 2, "num_beams": 2}, "one text a row"),
        ({"early_stopping": "maybe"}, "refused by transformers"),
        ("beam", "generation"),
    ],
    ids=range(8),
)
def test_bad_generation_is_refused_before_anything_is_loaded(generation, message):
    with pytest.raises(ValueError, match=message):
        make(backbone="/no/such/place", generation=generation).fit(X, Y)


@pytest.mark.parametrize(
    ("generation", "message"),
    [({"repetition_penalty": -1.0}, "penalty"), ({"bad_words_ids": []}, "bad_words_ids")],
    ids=["penalty", "words"],
)
def test_generation_that_the_model_refuses_is_refused_before_training(generation, message):
    reg = make(generation=generation)
    with pytest.raises(ValueError, match=f"generation is refused by the model: .*{message}"):
        reg.fit(X, Y)
    assert not hasattr(reg, "model_")


def test_trying_the_settings_of_generation_changes_nothing():
    one, other = (make(generation=g, max_epochs=1).fit(X, Y) for g in (None, {"do_sample": True}))
    for name, weight in one.model_.state_dict().items():
        assert torch.equal(weight, other.model_.state_dict()[name]), name


# ------------------------------------------------------- templates, prefixes


def test_texts_of_a_table_are_joined_by_name():
    texts = [" ".join(text.split()[:2]) for text in X]
    table = pd.DataFrame({"context": texts, "question": texts[::-1], "id": range(len(X))})
    reg = make(template="o {question} is {context}").fit(table, Y)
    assert reg.n_features_in_ == 3
    joined = [f"o {q} is {c}" for c, q in zip(texts, texts[::-1])]
    plain = make().fit(joined, Y)
    assert plain.history_[0]["train_loss"] == reg.history_[0]["train_loss"]
    assert (quietly(reg.predict, table) == quietly(plain.predict, joined)).all()
    with pytest.raises(ValueError, match="feature names"):
        reg.predict(table[["question", "context"]])
    with pytest.raises(ValueError, match="feature names"):
        reg.predict(table[["question", "context"]], prefix="a ")


def test_prefixes_are_in_front_of_sources():
    prefixes = ["o ", "is "] * (len(X) // 2)
    spelled = [p + text for p, text in zip(prefixes, X)]
    plain = make().fit(spelled, Y, X_val=["o " + X[0]], y_val=Y[:1])
    given = make().fit(X, Y, X_val=X[:1], y_val=Y[:1], prefix=prefixes, prefix_val="o ")
    assert plain.history_[0]["valid_loss"] == given.history_[0]["valid_loss"]
    assert (quietly(plain.predict, spelled) == quietly(given.predict, X, prefixes)).all()
    as_parameter = clone_fitted(given, prefix="o ")
    expected = quietly(given.predict, X, prefix="o ")
    assert (quietly(as_parameter.predict, X) == expected).all()
    assert quietly(given.score, X, Y, prefix="o ") == quietly(as_parameter.score, X, Y)


def test_bad_prefixes():
    with pytest.raises(ValueError, match="prefix has 2 entries for 24 rows"):
        make().fit(X, Y, prefix=["a", "b"])
    with pytest.raises(ValueError, match="pass prefix_val for those of X_val"):
        make().fit(X, Y, X_val=X, y_val=Y, prefix=["a"] * len(X))
    with pytest.raises(ValueError, match="prefix_val is for X_val"):
        make().fit(X, Y, prefix_val="a")
    with pytest.raises(ValueError, match="'prefix' parameter"):
        make(prefix=None).fit(X, Y)


def test_prefixes_are_routed_as_metadata():
    prefixes = np.array(["o ", "is "] * (len(X) // 2))
    seen = []

    class Spy(Text2TextGenerator):
        def score(self, X, y, sample_weight=None, prefix=None):
            seen.append(prefix.tolist())
            return super().score(X, y, sample_weight, prefix)

    with config_context(enable_metadata_routing=True):
        reg = Spy(**make().get_params(deep=False))
        reg = reg.set_fit_request(prefix=True).set_score_request(prefix=True)
        scores = quietly(cross_val_score, reg, X, Y, cv=2, params={"prefix": prefixes})
    assert scores.shape == (2,)
    assert seen == [prefixes[:12].tolist(), prefixes[12:].tolist()]


def test_scorers_of_validation_rows_know_their_prefixes():
    seen = []

    def scorer(estimator, X, y):
        seen.append(estimator._make_encoder(estimator.model_, estimator.tokenizer_, 40).prompts(X))
        return exact_match_scorer(estimator, X, y)

    prefixes = [f"{i} " for i in range(len(X))]
    reg = make(scoring=scorer, early_stopping=True, validation_fraction=4)
    quietly(reg.fit, X, Y, prefix=prefixes)
    assert len(seen[0]) == 4 and set(seen[0]) <= {p + text for p, text in zip(prefixes, X)}
    assert "valid_score" in reg.history_[0]


def test_augmenters_change_texts_only():
    seen = []

    class Mark:
        def transform(self, X):
            seen.extend(X)
            return ["onda" for _ in X]

    options = {"template": "{0} in {1}", "prefix": "o ", "lr": 1e-12, "batch_size": 99}
    options["backbone"] = Backbone(language_model("t5"), dropout=0.0)
    drawn = make(augment=Mark(), **options).fit(list(zip(X, X[::-1])), Y)
    spelled = make(**options).fit([("onda", "onda")] * len(X), Y)
    assert set(seen) == set(X)
    assert_allclose(drawn.history_[0]["train_loss"], spelled.history_[0]["train_loss"], rtol=1e-5)


# -------------------------------------------------------------- bad targets


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", " "], r"y\[1\] is an empty text \(1 of 2 are\)"),
        (["a"], "y has 1 texts, but X has 2 rows"),
        (["a", None], r"y\[1\] is missing"),
        ([1, 2], r"y\[0\] is 1 of type int"),
        (None, "y is None"),
    ],
    ids=range(5),
)
def test_bad_targets_are_refused_before_anything_is_loaded(y, message):
    with pytest.raises(ValueError, match=message):
        make(backbone="/no/such/place").fit(["a", "b"], y)


def test_long_targets_are_counted():
    n_long = sum(len(make_ids(text)) > 6 for text in Y)
    assert 0 < n_long < len(Y)
    with pytest.warns(UserWarning, match=rf"{n_long} of 24 targets.*max_target_length=6"):
        reg = make(max_target_length=6).fit(X, Y)
    assert reg.truncated_ == n_long
    assert make(max_target_length=60).fit(X, Y).truncated_ == 0


def make_ids(text):
    return make().from_pretrained(**pretrained("t5")).tokenizer_(text)["input_ids"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"finetune": "head"}, 'finetune="head" and Text2TextGenerator contradict'),
        ({"loss": CrossEntropy(classes=["a", "b"])}, "loss=.* contradict"),
        ({"template": "{a} {b}"}, "template=.* has 2 fields"),
        ({"template": "{a"}, "template=.*braces"),
        ({"metric": "accuracy"}, "'metric' parameter"),
        ({"max_target_length": 1}, "'max_target_length' parameter"),
    ],
    ids=range(6),
)
def test_bad_parameters_are_refused_before_anything_is_loaded(params, message):
    with pytest.raises(ValueError, match=message):
        make(backbone="/no/such/place", **params).fit(X, Y)


def test_what_a_model_can_number_bounds_lengths():
    with pytest.raises(ValueError, match="64 tokens of source and answer together"):
        make("gpt2", max_length=60).fit(X, Y)
    with pytest.raises(ValueError, match="64 tokens, but"):
        make("bart", max_length=None, max_target_length=65).fit(X, Y)
    reg = Text2TextGenerator.from_pretrained(language_model("llama"), max_target_length=20)
    assert reg.max_length_ == 44
    with pytest.raises(ValueError, match="max_new_tokens of generation, is 30"):
        reg.set_params(generation={"max_new_tokens": 30}).predict(X)


def test_an_encoder_cannot_answer(tiny_backbone):
    with pytest.raises(ValueError, match="is an encoder"):
        make(backbone=tiny_backbone).fit(X, Y)


# ----------------------------------------------------------------- training


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@pytest.mark.parametrize(
    "finetune", [1, LoRA(r=2), GradualUnfreezing()], ids=["top", "lora", "gradual"]
)
def test_part_of_a_model_is_trained(kind, finetune):
    reg = make(kind, finetune=finetune).fit(X, Y)
    assert 0 < reg.n_trained_parameters_ < reg.n_parameters_ and reg.n_blocks_ in (2, 4)
    before = Text2TextGenerator.from_pretrained(**pretrained(kind)).model_.state_dict()
    after = {k.replace(".base_layer", ""): v for k, v in reg.model_.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    if not isinstance(finetune, LoRA):
        found = [re.search(r"\.(?:block|layers|h)\.(\d+)\.", name) for name in changed]
        blocks = {int(match[1]) for match in found if match}
        stacks = {part for name in changed for part in name.split(".") if part.endswith("coder")}
        assert blocks <= {1} and "encoder" not in stacks
    quietly(reg.predict, X[:2])


def test_gradual_unfreezing_ends_with_the_embeddings():
    reg = make("bart", finetune=GradualUnfreezing(), max_epochs=5).fit(X, Y)
    assert reg.n_trained_parameters_ == reg.n_parameters_


def test_biases():
    reg = make("bart", finetune=BitFit()).fit(X, Y)
    assert 0 < reg.n_trained_parameters_ < 0.1 * reg.n_parameters_
    with pytest.raises(ValueError, match="trains biases"):
        make("t5", finetune=BitFit()).fit(X, Y)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_tied_tables_stay_tied_and_others_do_not_become_so(kind):
    model = make(kind).fit(X, Y).model_.native
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert is_tied == (kind in ("t5", "bart", "gpt2"))


@pytest.mark.parametrize("kind", ["t5", "mt5", "bart", "gpt2", "llama"])
def test_the_vocabulary_is_trained_as_if_whole(kind, tmp_path):
    """Compaction where nothing is tied, none elsewhere: the same weights."""
    words = sorted({word for text in [*X, *Y] for word in text.split()})
    tokenizer = word_tokenizer([*words, *(f"w{i}" for i in range(5000))])
    directory = save_language_model(tmp_path, kind, tokenizer)
    options = {"batch_size": 12, "template": "{text}", **PLAIN_STEPS}
    whole, small = (
        make(kind, backbone=Backbone(directory, compact_vocabulary=on), **options).fit(X, Y)
        for on in (False, True)
    )
    assert_same_weights(whole, small)


@pytest.mark.parametrize(
    "params",
    [
        {"optimizer": "adafactor", "lr": 1e-2},
        {"backbone": "checkpointing"},
        {"backbone": "bfloat16"},
        {"precision": "bf16"},
        {"anchor": 0.1},
        {"augment": RandomSwap()},
        {"early_stopping": True, "scoring": None, "metric": "chrf"},
    ],
    ids=["adafactor", "checkpointing", "bfloat16", "bf16", "anchor", "swap", "stop"],
)
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_options_of_training(kind, params):
    options = {
        "checkpointing": {"gradient_checkpointing": True},
        "bfloat16": {"dtype": "bfloat16"},
    }
    params = dict(params)
    if "backbone" in params:
        params["backbone"] = Backbone(language_model(kind), **options[params["backbone"]])
    reg = quietly(make(kind, max_epochs=4, **params).fit, X, Y)
    losses = [row["train_loss"] for row in reg.history_]
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()


def test_gradient_checkpointing_changes_no_weight():
    plain, forgetful = (
        make(backbone=Backbone(language_model("t5"), gradient_checkpointing=on), **PLAIN_STEPS).fit(
            X, Y
        )
        for on in (False, True)
    )
    assert_same_weights(plain, forgetful)


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path, capsys):
    options = {"schedule": "constant", "warmup": 0}
    make(memory=str(tmp_path), max_epochs=1, **options).fit(X, Y)
    longer = make(memory=str(tmp_path), max_epochs=2, verbose=1, **options).fit(X, Y)
    assert "goes on from the end of epoch 1" in capsys.readouterr().out
    afresh = make(max_epochs=2, **options).fit(X, Y)
    for a, b in zip(longer.model_.parameters(), afresh.model_.parameters()):
        assert torch.equal(a, b)


def test_training_goes_on():
    reg = make(max_epochs=2).fit(X, Y)
    first = reg.history_[-1]["train_loss"]
    reg.set_params(warm_start=True, replay=Replay(size=8)).fit(X, Y)
    assert len(reg.history_) == 4 and reg.history_[-1]["train_loss"] < first
    reg.partial_fit(X[:8], Y[:8], prefix="o ")
    assert len(reg.history_) == 5
    fresh = make(max_epochs=2).partial_fit(X, Y)
    assert fresh.n_iter_ == 1
    as_is = Text2TextGenerator.from_pretrained(**pretrained("t5", warm_start=True)).fit(X, Y)
    assert as_is.n_iter_ == 1 and as_is.history_[0]["train_loss"] > first


def test_length_goes_into_batches():
    """Rows of a batch are alike in source and target together."""
    encoded = with_lengths([30, 1, 30, 1] * 20, [1, 30, 1, 30] * 20)
    assert set(encoded.slots) == {31}
    assert len(encoded.groups(80 * 60)) == 1


def with_lengths(sources, targets):
    return with_targets(
        Encoded.of_texts(Ragged.of([[1] * n for n in sources])),
        Ragged.of([[1] * n for n in targets]),
    )


def test_bytes_are_tokens_too():
    """ByT5's tokenizer is no fast one: it does not say where a token comes from."""
    tokenizer = ByT5Tokenizer()
    native = make_t5(
        len(tokenizer), pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, dropout_rate=0.0
    )
    reg = make(
        backbone=Backbone(native, tokenizer=tokenizer),
        template="q: {1} c: {0}",
        max_length=20,
        max_target_length=6,
    )
    with pytest.warns(UserWarning, match="1 of 2 sources are longer than max_length=20"):
        reg.fit([("pão" * 9, "?"), ("b", "?")], ["pão", "no"])
    encoder = reg._make_encoder(reg.model_, reg.tokenizer_, 20)
    ids = encoder.encode(reg._check_X([("a" * 30, "?")])).encoded.sequences.row(0)
    assert reg.tokenizer_.decode(ids) == "q: ? c: " + "a" * 11 + "</s>"
    assert quietly(reg.predict, [("b", "?")]).shape == (1,)


# ----------------------------------------------------------------- contract


def test_a_fit_is_repeatable_and_pickles():
    first, second = (make().fit(X, Y) for _ in range(2))
    for a, b in zip(first.model_.parameters(), second.model_.parameters()):
        assert torch.equal(a, b)
    again = clone_fitted(first)
    assert (quietly(again.predict, X) == quietly(first.predict, X)).all()
    assert clone(first).get_params() == first.get_params()
    settings = make(generation=GenerationConfig(num_beams=2))
    assert clone(settings).generation.num_beams == 2
    assert not hasattr(clone(first), "model_")


def test_it_works_in_searches_and_pipelines():
    pipe = make_pipeline(FunctionTransformer(lambda X: [t.lower() for t in X]), make())
    search = GridSearchCV(
        pipe,
        {
            "text2textgenerator__lr": [1e-3, 1e-2],
            "text2textgenerator__generation": [None, {"num_beams": 2}],
        },
        cv=2,
    )
    quietly(search.fit, X, Y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert quietly(search.predict, X).shape == (24,)
    assert quietly(cross_val_predict, make(), X, Y, cv=2).shape == (24,)


def test_from_pretrained_answers_and_says_what_is_missing(tiny_backbone):
    reg = Text2TextGenerator.from_pretrained(language_model("t5"), max_target_length=5)
    assert reg.n_iter_ == 0 and reg.history_ == [] and not hasattr(reg, "lr_")
    assert quietly(reg.predict, X[:2]).shape == (2,)
    with pytest.raises(ValueError, match="is an encoder"):
        Text2TextGenerator.from_pretrained(tiny_backbone)
    headless = AutoModelForSeq2SeqLM.from_pretrained(language_model("t5")).base_model.encoder
    with pytest.raises(ValueError):
        Text2TextGenerator.from_pretrained(headless)


def test_a_classifier_of_labels_says_who_takes_an_encoder_decoder():
    with pytest.raises(ValueError, match="ncoder-decoder"):
        TransformerSequenceClassifier(language_model("bart"), device="cpu").fit(X, Y)


@pytest.mark.parametrize("name", ["accelerate", "export_onnx"])
def test_what_needs_a_head_is_refused(name, as_they_are, tmp_path):
    args = [tmp_path / "there"] if name == "export_onnx" else []
    with pytest.raises(ValueError, match=f"{name} is for models with a head"):
        getattr(as_they_are["t5"], name)(*args)


def test_out_of_memory_goes_on_in_halves(as_they_are, monkeypatch):
    reg = as_they_are["t5"]
    expected = quietly(reg.predict, X)
    generate = type(reg.model_.native).generate

    def short(self, **inputs):
        if len(inputs["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no more")
        return generate(self, **inputs)

    monkeypatch.setattr(type(reg.model_.native), "generate", short)
    with pytest.warns(UserWarning, match="Out of memory"):
        assert (reg.predict(X) == expected).all()


@pytest.mark.parametrize("metric", ["token_f1", "exact_match", "rougeL", "chrf", "bleu"])
def test_metrics_score(metric, as_they_are):
    reg = clone_fitted(as_they_are["llama"], metric=metric)
    own = quietly(reg.predict, X[:6])
    filled = [text if text.strip() else "." for text in own]
    assert quietly(reg.score, X[:6], filled) > 0.5
    assert quietly(reg.score, X[:6], ["zzz"] * 6) < 0.2


# ----------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parent.parent / "examples" / "plot_text2text.py"
    spec = importlib.util.spec_from_file_location("plot_text2text", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def learnt(example, tmp_path_factory):
    """One T5 of four tasks, and the rows that it has not seen."""
    train, test = example.split(150, 40)
    reg = Text2TextGenerator(
        example.save_tiny_t5(tmp_path_factory.mktemp("t5")),
        max_epochs=12,
        lr=5e-3,
        batch_size=32,
        max_target_length=10,
        metric="exact_match",
        device="cpu",
        random_state=0,
    )
    return reg.fit(train[0], train[1], prefix=train[2]), test


@pytest.mark.parametrize("task", ["translate: ", "summarize: ", "question: ", "classify: "])
def test_one_model_learns_several_tasks_by_prefix(task, learnt):
    reg, (sources, targets, prefixes) = learnt
    of_task = prefixes == task
    score = reg.score(sources[of_task], targets[of_task], prefix=prefixes[of_task])
    assert score > 0.95
    beams = clone_fitted(reg, generation={"num_beams": 3})
    assert beams.score(sources[of_task], targets[of_task], prefix=task) > 0.95


def test_the_prefix_says_what_is_to_be_done(learnt):
    reg, (sources, _, prefixes) = learnt
    some = sources[prefixes == "translate: "][:10]
    assert set(reg.predict(some, prefix="classify: ")) <= {"portuguese", "english"}


@pytest.mark.parametrize("kind", ["bart", "gpt2", "llama"])
def test_other_families_learn_to_answer(kind, example, tmp_path):
    """A question and its context, in a table."""
    sources, targets = example.rows("question: ", 250, 1)
    parts = [source.split(" context: ") for source in sources]
    table = pd.DataFrame(parts, columns=["question", "context"])
    words = {word for text in [*sources, *targets] for word in text.split()}
    end = "</s>" if kind == "bart" else ""
    tokenizer = word_tokenizer([*sorted(words), "answer:"], end=end)
    options, lr = {
        "bart": ({"d_model": 64}, 3e-3),
        "gpt2": ({"eos_token_id": 2, "initializer_range": 0.2}, 5e-3),
        "llama": ({"eos_token_id": 2}, 1e-2),
    }[kind]
    directory = save_language_model(tmp_path, kind, tokenizer, **options)
    reg = Text2TextGenerator(
        Backbone(directory, dropout=0.0),
        template="{question} context: {context} answer:",
        max_epochs=12,
        lr=lr,
        batch_size=16,
        max_target_length=4,
        metric="exact_match",
        device="cpu",
        random_state=0,
    )
    reg.fit(table[:200], targets[:200])
    assert reg.score(table[200:], targets[200:]) > 0.95

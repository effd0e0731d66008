"""Model cards of saved estimators, and the fitted attributes that count rows."""

import copy
import re

import numpy as np
import pytest
import tiny_estimators
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from huggingface_hub import ModelCard
from hypothesis import given, settings, strategies as st
from language_models import language_model
from numpy.testing import assert_array_equal

import sktransformers
from sktransformers import (
    AdamW,
    Backbone,
    CrossEntropy,
    Text2TextClassifier,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)
from sktransformers.persistence import card
from sktransformers.specs import DEFAULT_BACKBONE

TEXTS, LABELS = make_texts(30)
INDICATOR = np.array([[label == name for name in ("food", "sea")] for label in LABELS]).astype(int)
QUICK = {"max_epochs": 1, "device": "cpu", "random_state": 0}
# Names that could end a block, be markup, or break the metadata.
HOSTILE = [
    "---",
    "a\n---\nlicense: mit",
    "```\n# x",
    "<script>alert(1)</script>",
    "\u202e|`",
    ": - #",
]


def read(path):
    return ModelCard.load(path / "README.md")


def save(estimator, path, **options):
    """The card of a saved estimator."""
    estimator.save_pretrained(path, **options)
    return read(path)


def outside_blocks(text):
    """A Markdown text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("card-bert"), num_hidden_layers=1, **NO_DROPOUT)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    """What a card is made of: ``Saved``, and what ``sktransformers.json`` says."""
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "write", lambda folder, *made: given.append(made))
        fitted.save_pretrained(tmp_path_factory.mktemp("card") / "model")
    whole, about, _ = given[0]
    return whole, about


TAGS_OF_THE_HUB = {
    "classifier": "text-classification",
    "native": "text-classification",
    "regressor": "text-classification",
    "pair": "text-classification",
    "bi-encoder": "text-classification",
    "tagger": "token-classification",
    "native tagger": "token-classification",
    "tasks": "text-classification",
    "generator": "text-generation",
    "answers": "text-classification",
    "adapter": "fill-mask",
}
# What stands under "Outputs".
SHOWN = {
    "classifier": "'city'  8 training rows",
    "regressor": "'y'  mean 0.5, standard deviation 0.300965",
    "tagger": "'B-PER'\n'O'\n",
    "tasks": "'a'  3 classes\n'b'  regression",
    "answers": "'city'\n'food'\n'sea'\n",
}


@pytest.mark.parametrize("kind", tiny_estimators.KINDS)
def test_every_class_has_a_card(tmp_path, kind):
    estimator = tiny_estimators.fitted(kind)
    found = save(estimator, tmp_path / "model")
    assert found.data.library_name == "sktransformers"
    assert found.data.pipeline_tag == TAGS_OF_THE_HUB[kind]
    assert "sktransformers" in found.data.tags
    assert found.data.base_model is None  # a directory has no name that others know
    assert not found.data.to_dict().keys() & {"language", "license", "datasets"}
    assert found.text.count(type(estimator).__name__) >= 2  # its title, and its parameters
    assert f"- Training rows: {len(tiny_estimators.TEXTS)}" in found.text
    assert SHOWN.get(kind, "") in found.text
    assert ("## Outputs" in found.text) == (kind not in ("generator", "adapter"))
    assert str(estimator.backbone) not in found.content
    cut = "Texts are cut at" in found.text
    assert cut == (kind not in ("tagger", "native tagger", "adapter"))
    assert not any(text in found.content for text in tiny_estimators.TEXTS if len(text) > 12)
    loaded = sktransformers.load(tmp_path / "model")
    assert loaded.n_samples_seen_ == estimator.n_samples_seen_ == len(tiny_estimators.TEXTS)
    assert save(loaded, tmp_path / "again").content == found.content


def test_several_labels_and_several_numbers(tiny, tmp_path):
    quick = {**QUICK, "head_init": "random"}
    clf = TransformerSequenceClassifier(tiny, **quick).fit(TEXTS, INDICATOR)
    assert_array_equal(clf.class_count_, [10, 10])
    text = save(clf, tmp_path / "labels").text
    assert "any number of labels" in text
    assert "0  10 training rows\n1  10 training rows\n" in text
    y = np.c_[np.arange(30.0), np.ones(30)]
    reg = TransformerSequenceRegressor(tiny, **quick).fit(TEXTS, y)
    assert (
        "'0'  mean 14.5, standard deviation 8.65544\n'1'  mean 1,"
        in save(reg, tmp_path / "numbers").text
    )


def test_a_prompt_alone_has_a_card(tmp_path):
    clf = Text2TextClassifier(language_model("t5"), **QUICK).fit(None, ["good", "bad"])
    assert clf.n_samples_seen_ == 0
    found = save(clf, tmp_path / "model")
    assert found.data.pipeline_tag == "text-classification"
    assert "- Training rows: 0" in found.text
    assert "'bad'\n'good'" in found.text  # without counts


# ------------------------------------------------------------------- content


def test_classes_with_their_rows(fitted, tmp_path):
    found = save(fitted, tmp_path / "model")
    assert "'city'  16 training rows\n'food'  16 training rows\n" in found.text
    assert f"- Texts are cut at {fitted.max_length_} tokens." in found.text
    assert "## Scores" not in found.text  # there are none
    assert found.data.eval_results is None


@pytest.mark.parametrize("n", [50, 51, 170])
def test_at_most_fifty_classes_are_shown(saved, tmp_path, n):
    whole, about = saved
    fitted = {"classes_": np.arange(n), "class_count_": np.ones(n, int)}
    card.write(tmp_path, whole._replace(fitted=whole.fitted | fitted), about, None)
    text = read(tmp_path).text
    assert text.count("1 training rows") == 50
    assert ("... and" in text) == (n > 50)
    assert f"... and {n - 50} more" in text or n == 50


@settings(max_examples=60)
@given(
    names=st.lists(
        st.one_of(
            st.sampled_from(HOSTILE), st.text(min_size=1), st.integers(), st.booleans(), st.floats()
        ),
        min_size=2,
        max_size=8,
    )
)
def test_no_class_name_breaks_the_card(saved, tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("card")
    whole, about = saved
    classes = np.empty(len(names), dtype=object)
    classes[:] = names
    task = {"classes_": classes, "class_count_": np.arange(len(names))}
    card.write(folder, whole._replace(fitted=whole.fitted | task), about, {"accuracy": 0.5})
    found = read(folder)
    assert found.data.to_dict().keys() == {
        "library_name",
        "pipeline_tag",
        "tags",
        "metrics",
        "model-index",
    }
    rest = outside_blocks(found.text)
    assert "`" not in rest.replace("`accuracy`", "")  # every block was closed where it should be
    assert "<" not in rest
    assert [line for line in rest.splitlines() if line.startswith("#")] == [
        "# TransformerSequenceClassifier",
        *(f"## {title}" for title in ("Use", "Outputs", "Data", "Scores", "Limits")),
        *(f"## {title}" for title in ("Parameters", "Versions")),
    ]
    for name in names:
        if isinstance(name, str) and len(repr(name)) <= 100:
            assert repr(name) in found.text


@pytest.mark.parametrize("name", ["backbone", "backbone__name"])
def test_a_backbone_that_was_left_out_is_not_the_default(fitted, tmp_path, name):
    clf = copy.copy(fitted).set_params(backbone=Backbone(fitted.backbone))
    found = save(clf, tmp_path / "model", drop=[name])
    assert found.data.base_model is None
    assert DEFAULT_BACKBONE not in found.content
    assert "Made from a checkpoint that is not named here" in found.text


def test_a_class_of_the_users_own(fitted, tmp_path):
    class Mine(TransformerSequenceClassifier):
        pass

    mine = copy.copy(fitted)
    mine.__class__ = Mine
    found = save(mine, tmp_path / "model", scores={"accuracy": 0.5})
    assert 'model = Mine.from_pretrained("' in found.text
    assert "- `accuracy`: 0.5" in found.text
    assert found.data.pipeline_tag is None
    assert isinstance(Mine.from_pretrained(tmp_path / "model"), Mine)


def test_a_long_name_is_cut(saved, tmp_path):
    whole, about = saved
    fitted = whole.fitted | {"classes_": np.array(["x" * 1000, "y", "z"])}
    card.write(tmp_path, whole._replace(fitted=fitted), about, None)
    assert max(map(len, read(tmp_path).text.splitlines())) < 200


def test_parameters_that_are_not_the_defaults(tiny, tmp_path):
    secret = Backbone(tiny, token="hf_secret", dropout=0.0)
    clf = TransformerSequenceClassifier(
        secret, optimizer=AdamW(eps=1e-7), class_weight={"food": 2.0}, head_init="random", **QUICK
    ).fit(TEXTS, LABELS)
    text = save(clf, tmp_path / "model", drop=["optimizer"]).text
    assert "    backbone=Backbone(dropout=0.0, name=...),\n" in text
    assert "    class_weight={'food': 2.0},\n" in text
    assert "    head_init='random',\n" in text
    assert "batch_size" not in text
    assert "AdamW" not in text
    assert "Left out: `optimizer`." in text
    for name in ("README.md", "sktransformers.json", "config.json"):
        assert "hf_secret" not in (tmp_path / "model" / name).read_text("utf-8"), name


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (DEFAULT_BACKBONE, DEFAULT_BACKBONE),
        (Backbone(dropout=0.0), DEFAULT_BACKBONE),
        ("user/downloaded", "user/downloaded"),
        (Backbone("user/downloaded", revision="v1"), "user/downloaded"),
        ("user/unknown", None),
        ("runs/model-3", None),
        ("/home/somebody/model", None),
        ("not a valid id", None),
    ],
)
def test_only_an_id_of_the_hub_is_a_base_model(saved, tmp_path, monkeypatch, backbone, expected):
    def cached(name, *_, **__):
        if " " in name:
            raise ValueError("no valid id")
        return "/cache/config.json" if name == "user/downloaded" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    whole, about = saved
    parameters = whole.parameters | {"backbone": backbone}
    card.write(tmp_path, whole._replace(parameters=parameters, changed=["backbone"]), about, None)
    found = read(tmp_path)
    assert found.data.base_model == expected
    assert "somebody" not in found.content
    assert "runs" not in found.content
    if expected is not None:
        assert f"[{expected}](https://huggingface.co/{expected})" in found.text


# -------------------------------------------------------------------- scores


def test_scores_of_the_user(fitted, tmp_path):
    scores = {"accuracy": np.float32(0.5), "macro F1": 1, "`x`": -2.5}
    found = save(fitted, tmp_path / "model", scores=scores)
    for line in ("- `accuracy`: 0.5", "- `macro F1`: 1", "- `'x'`: -2.5"):
        assert line in found.text
    assert found.data.metrics == ["accuracy", "macro F1", "`x`"]
    assert [(r.metric_type, r.metric_value) for r in found.data.eval_results] == [
        ("accuracy", 0.5),
        ("macro F1", 1.0),
        ("`x`", -2.5),
    ]
    assert {r.task_type for r in found.data.eval_results} == {"text-classification"}


@pytest.mark.parametrize(
    ("scores", "error"),
    [
        ([("accuracy", 0.5)], TypeError),
        (0.5, TypeError),
        ({"accuracy": "0.5"}, TypeError),
        ({"accuracy": None}, TypeError),
        ({"accuracy": True}, TypeError),
        ({"accuracy": [0.5]}, TypeError),
        ({1: 0.5}, TypeError),
        ({"": 0.5}, ValueError),
        ({"a\nb": 0.5}, ValueError),
        ({"accuracy": float("nan")}, ValueError),
        ({"accuracy": float("inf")}, ValueError),
    ],
)
def test_bad_scores(fitted, tmp_path, scores, error):
    with pytest.raises(error, match="scores"):
        fitted.save_pretrained(tmp_path / "model", scores=scores)
    assert not (tmp_path / "model").exists()


def test_figures_of_the_validation_rows(make_clf, tmp_path):
    X_val, y_val = make_texts(9, seed=5)
    clf = make_clf(max_epochs=4, lr=1e-2, warm_start=True).fit(TEXTS, LABELS, None, X_val, y_val)
    best = min(clf.history_, key=lambda row: row["valid_loss"])
    assert clf._held_out == {"n_samples": 9, "epoch": clf.history_.index(best)}
    found = save(clf, tmp_path / "model")
    assert "- Validation rows: 9" in found.text
    assert "- Training rows: 30" in found.text
    assert f"`valid_loss` {best['valid_loss']:.6g}" in found.text
    (result,) = found.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", best["valid_accuracy"])
    loaded = sktransformers.load(tmp_path / "model")
    assert read(tmp_path / "model").content == save(loaded, tmp_path / "again").content

    clf.fit(TEXTS, LABELS, None, X_val, y_val)  # goes on
    last = clf.history_[4:]
    best = min(last, key=lambda row: row["valid_loss"])
    assert clf._held_out["epoch"] == 4 + last.index(best)
    clf.partial_fit(TEXTS, LABELS)  # weights that no validation row has seen
    assert clf._held_out is None
    assert "valid" not in save(clf, tmp_path / "later").text.lower()


# ---------------------------------------------------------- rows that were seen


def test_rows_of_fit_and_partial_fit(make_clf):
    quick = {"max_epochs": 1, "head_init": "random"}
    clf = make_clf(**quick).fit(TEXTS, LABELS)
    assert clf.n_samples_seen_ == 30
    assert_array_equal(clf.class_count_, [10, 10, 10])
    clf.fit(TEXTS[:20], LABELS[:20])  # afresh
    assert clf.n_samples_seen_ == 20
    clf.partial_fit(TEXTS[:3], LABELS[:3])
    assert clf.n_samples_seen_ == 23
    assert clf.class_count_.sum() == 23
    clf.partial_fit(TEXTS[:2], ["air", "sea"], classes=["air"])
    assert clf.n_samples_seen_ == 25
    assert dict(zip(clf.classes_, clf.class_count_)) == {"air": 1, "city": 7, "food": 8, "sea": 9}
    again = copy.deepcopy(clf).set_params(warm_start=True).fit(TEXTS[:2], ["air", "sea"])
    assert again.n_samples_seen_ == 27
    assert clf.n_samples_seen_ == 25
    assert_array_equal(again.class_count_, [2, 7, 8, 10])


def test_rows_that_do_not_count(make_clf):
    quick = {"max_epochs": 1, "head_init": "random"}
    weights = np.ones(30)
    weights[:4] = 0
    clf = make_clf(**quick).fit(TEXTS, LABELS, weights)
    assert clf.n_samples_seen_ == clf.class_count_.sum() == 26
    clf = make_clf(early_stopping=True, validation_fraction=6, **quick).fit(TEXTS, LABELS)
    assert clf.n_samples_seen_ == clf.class_count_.sum() == 24
    clf = make_clf(replay=10, **quick).fit(TEXTS, LABELS).partial_fit(TEXTS[:8], LABELS[:8])
    assert clf.n_samples_seen_ == clf.class_count_.sum() == 38


def test_soft_targets_count_for_the_most_probable_class(make_clf):
    soft = np.tile([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]], (10, 1))
    loss = CrossEntropy(classes=["b", "a"])
    clf = make_clf(max_epochs=1, head_init="random", loss=loss).fit(TEXTS, soft)
    assert dict(zip(clf.classes_, clf.class_count_)) == {"a": 20, "b": 10}


def test_a_checkpoint_has_seen_no_rows(fitted, tmp_path):
    native = TransformerSequenceClassifier(
        fitted.backbone, head="native", head_init="random", **QUICK
    ).fit(TEXTS, LABELS)
    native.model_.native.save_pretrained(tmp_path / "native")
    native.tokenizer_.save_pretrained(tmp_path / "native")
    clf = TransformerSequenceClassifier.from_pretrained(tmp_path / "native", device="cpu")
    assert clf.n_samples_seen_ == 0
    assert_array_equal(clf.class_count_, [0, 0, 0])
    assert "'city'\n'food'\n" in save(clf, tmp_path / "ours").text
    clf.partial_fit(TEXTS, LABELS)
    assert_array_equal(clf.class_count_, [10, 10, 10])

"""Only the embedding rows that occur are trained; nobody may notice."""

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, WORDS, make_texts, save_tiny_bert
from families import FAMILIES
from skorch.callbacks import Callback, Freezer, TrainEndCheckpoint
from torch import nn
from transformers import AutoModel

from sktransformers import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Backbone,
    Linear,
    PairClassifier,
    RAdam,
    TokenTagger,
    TransformerSequenceClassifier,
)
from sktransformers.training import vocabulary
from sktransformers.training.vocabulary import CompactEmbedding, leaves_unseen_rows_alone

TEXTS, LABELS = make_texts(40, topics=("food", "sea"))
# Words of the city stand in none of the texts above.
X_VAL, Y_VAL = make_texts(12, topics=("food", "sea"), seed=1)
X_VAL = [f"{text} {word} tram" for text, word in zip(X_VAL, 2 * WORDS["city"], strict=False)]
Y_VAL = Y_VAL[: len(X_VAL)]
MEASURED = {"seconds", "tokens_per_second"}


class Scaled(nn.Embedding):
    """As in Bart, Gemma and others."""

    def forward(self, input_ids):
        return super().forward(input_ids) * 3.0


class Direct(nn.Embedding):
    """Looks its rows up by itself."""

    def forward(self, input_ids):
        return self.weight[input_ids] * 3.0


@pytest.fixture
def compacted(monkeypatch):
    """Compact tables of any size, and list the shapes of those that were."""
    shapes = []
    original = vocabulary._compact

    def compact(embedding, ids):
        rows = original(embedding, ids)
        shapes.append(tuple(rows.shape))
        return rows

    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 0)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    monkeypatch.setattr(vocabulary, "_compact", compact)
    return shapes


def make_backbone(name):
    """A loaded backbone of a family in float64, without dropout, and its tokenizer."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    for option, value in config.to_dict().items():
        if "drop" in option and isinstance(value, float):
            setattr(config, option, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config).double(), tokenizer


@pytest.fixture(scope="module")
def bert():
    return make_backbone("bert")


@pytest.fixture(scope="module")
def bert_files(tmp_path_factory):
    """Directory of the tiny BERT without dropout, in float32."""
    return save_tiny_bert(tmp_path_factory.mktemp("still"), **NO_DROPOUT)


def make(backbone, compact=True, kind=TransformerSequenceClassifier, **params):
    model, tokenizer = backbone
    defaults = {"lr": 5e-3, "max_epochs": 4, "batch_size": 8, "device": "cpu", "random_state": 0}
    defaults["head"] = Linear(dropout=0.0)
    spec = Backbone(model, tokenizer=tokenizer, compact_vocabulary=compact)
    return kind(spec, **{**defaults, **params})


def fit_both(backbone, X=TEXTS, y=LABELS, fit=None, **params):
    """An estimator with a compact vocabulary, and one without."""
    return [make(backbone, compact, **params).fit(X, y, **(fit or {})) for compact in (True, False)]


def assert_same(small, full, tolerance=1e-6):
    """The same weights under the same names, and the same history."""
    weights, expected = small.model_.state_dict(), full.model_.state_dict()
    assert list(weights) == list(expected)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=tolerance, msg=name)
    assert len(small.history_) == len(full.history_)
    for row, other in zip(small.history_, full.history_, strict=True):
        shown = {name: value for name, value in row.items() if name not in MEASURED}
        assert shown == pytest.approx({name: other[name] for name in shown}, rel=1e-6)


def table_of(estimator):
    return estimator.model_.backbone.get_input_embeddings()


def assert_ordinary(embedding, kind=nn.Embedding):
    """No trace is left of what was there during training."""
    assert type(embedding) is kind
    assert vars(embedding).keys() - vars(kind(3, 2)).keys() <= {"_is_hf_initialized"}
    assert list(embedding._parameters) == ["weight"]
    assert type(embedding.weight) is nn.Parameter
    assert embedding.weight.shape == (embedding.num_embeddings, embedding.embedding_dim)


# ------------------------------------------------------------ same weights


@pytest.mark.parametrize(
    "family",
    ["bert", "roberta", "deberta-v2", "deberta-v3", "modernbert", "xlm-roberta", "mpnet", "gpt2"],
)
def test_families(compacted, family):
    backbone = make_backbone(family)
    spec = AdamW(max_grad_norm=0.05)
    small, full = fit_both(backbone, optimizer=spec, weight_decay=0.1)
    assert sum(row["grad_norm"] > 0.05 for row in full.history_) > 2
    ((rows, width),) = compacted
    assert rows < table_of(full).num_embeddings
    assert width == table_of(full).embedding_dim
    assert_same(small, full)
    assert_ordinary(table_of(small))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_options(compacted, bert, weight_decay, max_grad_norm):
    spec = AdamW(max_grad_norm=max_grad_norm)
    params = {"optimizer": spec, "weight_decay": weight_decay, "head_init": "random"}
    small, full = fit_both(bert, **params)
    assert compacted
    assert_same(small, full)
    # Some rows occur in no text: they are as they were, but for decay.
    before = bert[0].get_input_embeddings().weight
    unseen = bert[1].convert_tokens_to_ids(WORDS["city"])
    factor = 1.0
    for epoch in range(4):
        for step in range(5):
            factor *= 1 - weight_decay * 5e-3 * full.net_.schedule(5 * epoch + step)
    torch.testing.assert_close(table_of(small).weight[unseen], factor * before[unseen])


def test_float32(compacted, bert_files):
    files = bert_files, None
    small, full = fit_both(files, weight_decay=0.1, optimizer=AdamW(max_grad_norm=None))
    assert compacted
    assert_same(small, full)


@pytest.mark.parametrize("kind", [Scaled, Direct])
def test_an_embedding_of_its_own_kind(compacted, bert, kind):
    model = copy.deepcopy(bert[0])
    model.get_input_embeddings().__class__ = kind
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output + 0.1)
    small, full = fit_both((model, bert[1]), weight_decay=0.1)
    assert compacted
    assert_same(small, full)
    assert_ordinary(table_of(small), kind)
    assert len(table_of(small)._forward_hooks) == 1


def test_pairs(compacted, bert):
    pairs = [(a, b) for a, b in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)]
    assert_same(*fit_both(bert, pairs, LABELS, kind=PairClassifier, interaction="all"))
    assert_same(*fit_both(bert, pairs, LABELS, kind=PairClassifier, symmetric=True))
    assert len(compacted) == 2


def test_words(compacted, bert):
    sentences = [text.split() for text in TEXTS]
    topics = {word: topic for topic, words in WORDS.items() for word in words}
    tags = [[topics.get(word, "O") for word in words] for words in sentences]
    assert_same(*fit_both(bert, sentences, tags, kind=TokenTagger))
    assert compacted


def test_windows(compacted, bert):
    small, full = fit_both(bert, max_length=6, long_text="window", max_batch_tokens=20)
    assert compacted
    assert_same(small, full)


@pytest.mark.parametrize("scoring", ["loss", "neg_log_loss"])
def test_early_stopping(compacted, bert, scoring):
    params = {"scoring": scoring, "n_iter_no_change": 3, "max_epochs": 12, "lr": 2e-2}
    small, full = fit_both(
        bert, fit={"X_val": X_VAL, "y_val": Y_VAL}, weight_decay=0.5, early_stopping=True, **params
    )
    assert compacted
    column = [row["valid_loss"] for row in full.history_]
    assert np.argmin(column) < len(column) - 1  # the best epoch is not the last
    assert_same(small, full)
    np.testing.assert_allclose(small.predict_proba(X_VAL), full.predict_proba(X_VAL), atol=1e-6)


def test_warm_start(compacted, bert):
    both = fit_both(bert, warm_start=True, weight_decay=0.1)
    for clf in both:
        clf.fit(X_VAL, Y_VAL)
    assert_same(*both)
    first, second = compacted
    assert first != second


def test_float16(compacted, bert_files):
    # The first steps overflow: nothing may decay in them.
    both = fit_both((bert_files, None), precision="fp16", weight_decay=0.5, head_init="random")
    norms = [row["grad_norm"] for row in both[1].history_]
    assert compacted
    assert both[1].net_.scaler_.get_scale() < 65536, norms
    unseen = both[0].tokenizer_.convert_tokens_to_ids(WORDS["city"])
    rows, expected = (table_of(clf).weight[unseen] for clf in both)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=0)


def test_frozen_by_a_callback(compacted, bert):
    freezer = ("freezer", Freezer("backbone.embeddings.*"))
    small, full = fit_both(bert, callbacks=[freezer], weight_decay=0.5)
    assert compacted
    assert_same(small, full)
    assert torch.equal(table_of(small).weight, bert[0].get_input_embeddings().weight)
    assert not table_of(small).weight.requires_grad


# --------------------------------------------------- in the middle of training

SEEN = []


class Look(Callback):
    """Compares what everybody sees in the middle of training."""

    def on_epoch_end(self, net, **kwargs):
        model = net.module_.eval()
        embedding = model.backbone.get_input_embeddings()
        ids = torch.tensor([[2, *range(5, 40), 3]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        twin = copy.deepcopy(model)
        with torch.no_grad():
            expected = model(**inputs).logits
            others = [twin(**inputs).logits, pickle.loads(pickle.dumps(model))(**inputs).logits]
            weight = embedding.weight.clone()
            rows = embedding(ids)
            state = copy.deepcopy(model.state_dict())
            embedding._parameters["weight"].mul_(0.5)
            model.load_state_dict(state)
            others.append(model(**inputs).logits)
        for other in others:
            torch.testing.assert_close(other, expected, rtol=0, atol=1e-12)
        assert_ordinary(twin.backbone.get_input_embeddings())
        assert list(state) == list(twin.state_dict())
        torch.testing.assert_close(rows, weight[ids])
        torch.testing.assert_close(embedding.weight, weight)
        SEEN.append((model, embedding, weight))


def test_everybody_sees_the_whole_table(compacted, bert):
    SEEN.clear()
    small, full = fit_both(bert, weight_decay=0.5, callbacks=[("look", Look())])
    assert_same(small, full)
    for (model, embedding, weight), (_, _, expected) in zip(SEEN[:4], SEEN[4:], strict=True):
        assert model is small.model_
        assert embedding is table_of(small)
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_saved_while_training(compacted, bert, tmp_path):
    saver = TrainEndCheckpoint(dirname=tmp_path, f_optimizer=None, f_history=None)
    clf = make(bert, weight_decay=0.5, callbacks=[("saver", saver)]).fit(TEXTS, LABELS)
    assert compacted
    saved = torch.load(tmp_path / "train_end_params.pt", weights_only=True)
    for name, weight in clf.model_.state_dict().items():
        torch.testing.assert_close(saved[name], weight, msg=name)


def test_gradient_is_that_of_all_rows(bert):
    model = copy.deepcopy(bert[0].get_input_embeddings())
    ids = torch.tensor([[0, 5, 7, 7], [5, 9, 0, 0]])
    factor = torch.randn(2, 4, 32, dtype=torch.float64)
    (model(ids) * factor).sum().backward()
    expected = model.weight.grad
    assert not expected[0].any()  # of the padding
    rows = vocabulary._compact(model, torch.tensor([0, 5, 7]))
    (model(ids) * factor).sum().backward()
    torch.testing.assert_close(rows.grad[:3], expected[[0, 5, 7]])
    assert not rows.grad[3].any()
    (torch.autograd.grad(model.weight[5].sum(), rows)[0][1] == 1).all()


# ------------------------------------------------------------------- afterwards


def test_nothing_is_left(compacted, bert_files):
    clf = make((bert_files, None), weight_decay=0.1).fit(TEXTS, LABELS)
    assert compacted
    for fitted in (clf, copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
        assert_ordinary(table_of(fitted))
        assert not [m for m in fitted.model_.modules() if isinstance(m, CompactEmbedding)]
        assert table_of(fitted).weight.requires_grad
        np.testing.assert_array_equal(fitted.predict_proba(X_VAL), clf.predict_proba(X_VAL))


def test_the_net_can_go_on(compacted, bert):
    clf = make(bert).fit(TEXTS, LABELS)
    trained = {id(p) for group in clf.net_.optimizer_.param_groups for p in group["params"]}
    assert trained == {id(p) for p in clf.model_.parameters()}
    before = table_of(clf).weight.detach().clone()
    for group in clf.net_.optimizer_.param_groups:
        group["lr"] = 1e-3
    clf.net_.train_step(clf.net_.get_dataset(make_dataset(clf)).take(np.arange(8)))
    assert not torch.equal(table_of(clf).weight, before)


def make_dataset(clf):
    from sktransformers.training.net import EncodedDataset

    encoder = clf._make_encoder(clf.model_, clf.tokenizer_, clf.max_length_)
    n = len(TEXTS)
    return EncodedDataset(encoder.encode(TEXTS).encoded, np.arange(n) % 2, np.ones(n))


class Breaks(Callback):
    """Ends the second epoch with an error, in the middle of a step."""

    def __init__(self, error):
        self.error = error

    def on_grad_computed(self, net, **kwargs):
        if len(net.history) == 2:
            SEEN.append(net.module_)
            raise self.error("no more")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_fit(compacted, bert, error):
    SEEN.clear()
    before = copy.deepcopy(bert[0].state_dict())
    clf = make(
        bert,
        weight_decay=0.5,
        schedule="constant",
        warmup=0,
        callbacks=[("breaks", Breaks(error))],
    )
    with pytest.raises(error, match="no more"):
        clf.fit(TEXTS, LABELS)
    assert compacted
    embedding = SEEN[0].backbone.get_input_embeddings()
    assert_ordinary(embedding)
    # As far as training came: one epoch of decay.
    factor = (1 - 0.5 * 5e-3) ** 5
    unseen = bert[1].convert_tokens_to_ids(WORDS["city"])
    start = bert[0].get_input_embeddings().weight[unseen]
    torch.testing.assert_close(embedding.weight[unseen] / start, torch.full_like(start, factor))
    for name, weight in bert[0].state_dict().items():
        assert torch.equal(weight, before[name])
    assert_ordinary(bert[0].get_input_embeddings())


def test_failed_before_anything_was_built(compacted, bert, monkeypatch):
    clf = make(bert)
    seen = []

    def fail(net, *args, **kwargs):
        seen.append(net.module)
        raise RuntimeError("no net")

    monkeypatch.setattr("sktransformers.training.net.FineTuningNet.initialize", fail)
    with pytest.raises(RuntimeError, match="no net"):
        clf.fit(TEXTS, LABELS)
    assert compacted
    assert_ordinary(seen[0].backbone.get_input_embeddings())


def test_the_parameter_comes_back(compacted, bert):
    model = make(bert, compact=False, max_epochs=1).fit(TEXTS, LABELS).model_
    before = model.backbone.get_input_embeddings().weight

    class Net:
        module, pad_id = model, 0

        def optimizer(self, module):
            return torch.optim.SGD(module.parameters())

    with vocabulary.compacted(Net(), np.array([3, 4, 10**6])):
        assert model.backbone.get_input_embeddings().weight is not before
    assert model.backbone.get_input_embeddings().weight is before
    assert compacted == [(4, 32)]


# --------------------------------------------------------------- stepping aside


def test_small_tables_are_left_alone(compacted, bert, monkeypatch, capsys):
    monkeypatch.undo()
    make(bert, verbose=1, max_epochs=1).fit(TEXTS, LABELS)
    assert compacted == []
    assert "vocabulary" not in capsys.readouterr().out


def test_most_rows_occur(compacted, bert, monkeypatch, capsys):
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 0.01)
    make(bert, verbose=1, max_epochs=1).fit(TEXTS, LABELS)
    assert compacted == []
    assert "tokens occur" in capsys.readouterr().out


def test_said_when_verbose(compacted, bert, capsys):
    make(bert, verbose=1, max_epochs=1).fit(TEXTS, LABELS)
    assert f"{compacted[0][0] - 1} of {len(bert[1])} tokens" in capsys.readouterr().out
    make(bert, max_epochs=1).fit(TEXTS, LABELS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("case", ["frozen", "shared", "by count", "no table", "replaced", "off"])
def test_steps_aside(compacted, bert, capsys, case):
    model = copy.deepcopy(bert[0])
    embedding = model.get_input_embeddings()
    if case == "frozen":
        embedding.weight.requires_grad_(False)
    elif case == "shared":
        model.output = nn.Linear(32, embedding.num_embeddings, bias=False)
        model.output.weight = embedding.weight
    elif case == "by count":
        embedding.scale_grad_by_freq = True
    elif case == "no table":
        model.set_input_embeddings(nn.Sequential(embedding))
        embedding = model.get_input_embeddings()
        embedding.weight = embedding[0].weight
    elif case == "replaced":
        embedding.forward = Twice(embedding)
    make((model, bert[1]), case != "off", verbose=1, max_epochs=1).fit(TEXTS, LABELS)
    assert compacted == []
    assert ("not compacted: " in capsys.readouterr().out) == (case in ("frozen", "shared"))


class Twice:
    """What libraries put in the place of a module's forward."""

    def __init__(self, embedding):
        self.embedding = [embedding]

    def __call__(self, ids):
        return 2 * nn.Embedding.forward(self.embedding[0], ids)


def test_option_is_checked(tmp_path):
    clf = TransformerSequenceClassifier(Backbone(tmp_path, compact_vocabulary="yes"))
    with pytest.raises(ValueError, match="compact_vocabulary"):
        clf.fit(TEXTS, LABELS)


# ------------------------------------------------------------------- optimizers

ALONE = [
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adadelta, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (torch.optim.NAdam, {}),
    (torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (torch.optim.RAdam, {}),
    (torch.optim.RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
]


@pytest.mark.parametrize(("kind", "options"), ALONE)
def test_optimizers_that_leave_rows_alone(kind, options):
    start = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = torch.tensor([True, False, True, False, True, False])
    tables = [nn.Parameter(start.clone()), nn.Parameter(start[seen].clone())]
    optimizers = [kind([table], lr=0.01, **options) for table in tables]
    assert all(map(leaves_unseen_rows_alone, optimizers))
    for step in range(12):
        gradient = torch.sin(start + step) * seen.unsqueeze(1)
        tables[0].grad, tables[1].grad = gradient, gradient[seen]
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(tables[0][seen], tables[1])
    ratio = tables[0][~seen] / start[~seen]
    factor = (1 - 0.01 * options.get("weight_decay", 0)) ** 12
    torch.testing.assert_close(ratio, torch.full_like(ratio, factor))


class OwnAdam(torch.optim.Adam):
    """Who knows what it does."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.SGD, {"weight_decay": 0.1}),
        (torch.optim.Adafactor, {}),
        (torch.optim.ASGD, {}),
        (OwnAdam, {}),
    ],
)
def test_optimizers_that_do_not(kind, options):
    table = nn.Parameter(torch.ones(6, 4))
    assert not leaves_unseen_rows_alone(kind([table], **options))


def test_penalty_does_not_leave_rows_alone():
    groups = [{"params": [nn.Parameter(torch.ones(6, 4))], "l2": 0.1}]
    assert not leaves_unseen_rows_alone(torch.optim.AdamW(groups))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(),
        Adam(amsgrad=True),
        RAdam(),
        Adagrad(),
        AdamW(layer_decay=0.5),
        AdamW(averaging="ema"),
        AdamW(averaging="swa"),
    ],
    ids=repr,
)
def test_optimizers_of_the_estimators(compacted, bert, optimizer):
    assert_same(*fit_both(bert, optimizer=optimizer, weight_decay=0.5))
    assert compacted


@pytest.mark.parametrize("optimizer", [SGD(l2=0.1), AdamW(l2=0.1), Adafactor()], ids=repr)
def test_optimizers_that_change_all_rows(compacted, bert, capsys, optimizer):
    make(bert, optimizer=optimizer, max_epochs=1, verbose=1).fit(TEXTS, LABELS)
    assert compacted == []
    assert "also changes tokens that do not occur" in capsys.readouterr().out


@pytest.mark.parametrize("leaves", [True, False])
def test_other_optimizers_are_asked(compacted, bert, monkeypatch, leaves):
    monkeypatch.setattr(vocabulary, "leaves_unseen_rows_alone", lambda optimizer: leaves)
    make(bert, max_epochs=1).fit(TEXTS, LABELS)
    assert bool(compacted) == leaves


def test_witness_tells_the_decay():
    # At rates at which a single number would be rounded the same way in every step.
    embedding = nn.Embedding(10, 64)
    rows = vocabulary._compact(embedding, torch.arange(3))
    optimizer = torch.optim.AdamW([rows], lr=3e-5, weight_decay=0.01)
    for _ in range(500):
        rows.grad = torch.zeros_like(rows)
        optimizer.step()
    assert float(embedding._decay()) == pytest.approx((1 - 3e-7) ** 500, abs=1e-5)

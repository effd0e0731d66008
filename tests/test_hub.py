"""Saved models on the hub: the real client talks to a small hub of our own, over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_texts
from hub_server import running
from huggingface_hub import ModelCard
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import sktransformers
from sktransformers import Backbone, SavedModelError, TransformerSequenceClassifier

TOKEN = "hf_this-is-a-secret"
NEW = make_texts(6, seed=1)[0]
SCRIPT = Path(__file__).with_name("hub_client.py")


@pytest.fixture(scope="module")
def talked(fitted, tmp_path_factory):
    """The hub, and what a client said that pushed to it and loaded from it."""
    folder = tmp_path_factory.mktemp("hub")
    fitted.save_pretrained(folder / "saved")
    native = AutoConfig.from_pretrained(fitted.backbone, num_labels=2)
    AutoModelForSequenceClassification.from_config(native).save_pretrained(folder / "native")
    AutoTokenizer.from_pretrained(fitted.backbone).save_pretrained(folder / "native")
    others = {file.name: file.read_bytes() for file in (folder / "native").iterdir()}
    with running(TOKEN) as hub:
        hub.add("someone/native", others)
        strange = {"evil.py": b"1/0", "pytorch_model.bin": b"a pickle", "notes.txt": b"mine"}
        hub.add("someone/topics", {".gitattributes": b"", **strange})
        asked = {"saved": str(folder / "saved"), "texts": NEW, "token": TOKEN}
        asked["cache"] = str(folder / "cache")
        done = subprocess.run(
            [sys.executable, SCRIPT, json.dumps(asked)],
            env=os.environ
            | {
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(folder / "home"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_TOKEN": "",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        yield hub, {**json.loads(done.stdout.splitlines()[-1]), "all": done.stdout + done.stderr}


def test_what_was_pushed_is_loaded_with_the_same_predictions(talked, fitted):
    expected = fitted.predict_proba(NEW)
    ways = ("loaded", "from_pretrained", "branch", "commit", "proposal", "unreachable", "offline")
    for how in ways:
        assert_allclose(talked[1][how], expected, rtol=0, atol=1e-7, err_msg=how)


def test_the_repository_holds_what_a_save_writes(talked):
    hub, said = talked
    files = hub.commits[said["oid"]]
    assert {"sktransformers.json", "config.json", "model.safetensors", "README.md"} <= set(files)
    assert files["notes.txt"] == b"mine"  # of others
    assert hub.messages[said["oid"]] == "Upload with sktransformers"
    card = ModelCard(files["README.md"].decode())
    assert 'sktransformers.load("someone/topics")' in card.text
    assert card.data.metrics == ["accuracy"]
    assert said["url"] == f"{hub.url}/someone/topics/commit/{said['oid']}"


def test_files_of_an_earlier_push_are_deleted(talked):
    hub, said = talked
    assert any("delta.safetensors" in files for files in hub.commits.values())
    assert "delta.safetensors" not in hub.commits[said["oid"]]
    assert "delta.safetensors" not in hub.repos["someone/topics"]["v2"]
    assert hub.repos["someone/topics"]["v2"]["notes.txt"] == b"mine"


def test_new_repositories_are_as_private_as_was_asked(talked):
    hub = talked[0]
    assert hub.private == {"someone/private": "private", "me/public": None}
    assert b'load("me/public")' in hub.repos["me/public"]["main"]["README.md"]


def test_a_proposal_leaves_the_main_branch_alone(talked):
    hub, said = talked
    assert said["pr_url"] == f"{hub.url}/someone/topics/discussions/1"
    assert hub.repos["someone/topics"]["main"] == hub.commits[said["oid"]]


def test_only_files_of_a_save_are_downloaded(talked):
    names = {name for repo, name in talked[0].served if repo == "someone/topics"}
    assert "model.safetensors" in names
    assert not {"evil.py", "pytorch_model.bin", ".gitattributes"} & names


def test_a_checkpoint_of_others_is_read_as_such(talked):
    said = talked[1]
    assert said["native"] == ["LABEL_0", "LABEL_1"]
    assert "someone/native" in said["native_error"]
    assert "the repository has no sktransformers.json" in said["native_error"]


def test_errors_name_the_repository_and_hide_the_token(talked):
    hub, said = talked
    assert {TOKEN, "hf_wrong-secret"} <= hub.tokens  # they were sent
    refused = ("refused", "push_refused", "backbone_refused", "backbone_lost")
    for name in ("missing", "revision", *refused):
        text = said[name]
        assert "someone/" in text, name
        assert "secret" not in text, name
    assert "no-such-branch" in said["revision"]
    for name in refused[:3]:
        assert "***" in said[name], name  # the server had repeated it


def test_the_token_is_in_no_file(talked):
    hub, _ = talked
    for files in hub.commits.values():
        for name, content in files.items():
            assert TOKEN.encode() not in content, name


def test_the_token_of_a_backbone_stays_with_the_process(talked):
    said = talked[1]
    assert said["saved"] and said["leaks"] == 0
    assert "huggingface_hub" in said["all"]  # its log is there
    assert TOKEN not in said["all"]
    assert "`hf auth login`" in said["backbone_lost"]
    assert "`hf auth login`" not in said["backbone_refused"]


# ------------------------------------------------- without a hub (HF_HUB_OFFLINE)


def test_an_id_that_is_not_in_the_cache(fitted):
    with pytest.raises(SavedModelError, match="'no/such'"):
        sktransformers.load("no/such")
    with pytest.raises(ValueError, match="'no/such'"):
        TransformerSequenceClassifier.from_pretrained("no/such")
    with pytest.raises(ConnectionError, match=r"push_to_hub\('no/such'\) failed"):
        fitted.push_to_hub("no/such", token=TOKEN)


@pytest.mark.parametrize(
    "name",
    [
        *("/no/such/directory", "./there", "a/b/c", "a b", "", "~/there", "~no-such-user/there"),
        "long" * 2000,
    ],
    ids=lambda name: name[:20],
)
def test_names_of_nothing(name):
    with pytest.raises(SavedModelError, match="no"):
        sktransformers.load(name)
    with pytest.raises((TypeError, ValueError), match=r"no|an empty str"):
        TransformerSequenceClassifier.from_pretrained(name)


def test_bad_options_of_a_push(fitted, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="repo_id='a/b/c'"):
        fitted.push_to_hub("a/b/c")
    with pytest.raises(ValueError, match="repo_id=3"):
        fitted.push_to_hub(3)
    with pytest.raises(ValueError, match="create_pr=True and revision='x'"):
        fitted.push_to_hub("a/b", create_pr=True, revision="x")
    with pytest.raises(TypeError, match="scores"):
        fitted.push_to_hub("a/b", scores={"accuracy": "good"})
    with pytest.raises(NotFittedError):
        TransformerSequenceClassifier().push_to_hub("a/b")


def test_a_revision_is_for_ids(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="revision='v1'"):
        sktransformers.load(tmp_path / "model", revision="v1")
    with pytest.raises(ValueError, match="revision='v1'"):
        TransformerSequenceClassifier.from_pretrained(tmp_path / "model", revision="v1")
    with pytest.raises(ValueError, match="revision and token"):
        TransformerSequenceClassifier.from_pretrained(Backbone("a/b"), revision="v1")
    with pytest.raises(ValueError, match="revision and token"):
        TransformerSequenceClassifier.from_pretrained(fitted.backbone, revision="v1")


def test_a_directory_comes_before_an_id(fitted, tmp_path, monkeypatch):
    fitted.save_pretrained(tmp_path / "someone" / "topics")
    monkeypatch.chdir(tmp_path)
    there = sktransformers.load("someone/topics")
    assert_allclose(there.predict_proba(NEW), fitted.predict_proba(NEW), rtol=0, atol=1e-7)
    assert np.array_equal(there.classes_, fitted.classes_)

"""Saving and loading when things go wrong: kills, full disks, foreign directories."""

import copy
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.exceptions import NotFittedError

import sktransformers
from sktransformers import SavedModelError, TransformerSequenceClassifier, persistence
from sktransformers.inference import directory
from sktransformers.inference.directory import appearing, recover

NAME = "sktransformers.json"


@pytest.fixture(scope="module")
def clf(make_clf, texts, labels):
    """A fitted classifier."""
    return make_clf(max_epochs=1).fit(texts, labels)


@pytest.fixture(scope="module")
def other(clf):
    """One that gives other probabilities."""
    new = copy.deepcopy(clf)
    with torch.no_grad():
        new.model_.head.out.weight.neg_()
    return new


@pytest.fixture(scope="module")
def saved(clf, tmp_path_factory):
    """Its directory, not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "model"
    clf.save_pretrained(path)
    return path


@pytest.fixture
def model(saved, tmp_path):
    """A copy of its directory, with nothing beside it."""
    return Path(shutil.copytree(saved, tmp_path / "home" / "model"))


def content(folder):
    """Bytes of all files below a directory."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def beside(path):
    """Names of what is in the directory of a path."""
    return sorted(each.name for each in path.parent.iterdir())


def edit(folder, **entries):
    """Change entries of sktransformers.json."""
    about = json.loads((folder / NAME).read_text("utf-8"))
    (folder / NAME).write_text(json.dumps({**about, **entries}), "utf-8")


# ------------------------------------------------------------------ kills

# Each case forks a child that kills itself at the n-th step of writing a directory, until one
# comes through. A step is any call that changes the disk. What is written is a copy of a saved
# model, at every step; or at some steps the model itself, which takes longer.
KILLS = """
import json, os, resource, shutil, signal, sys
from pathlib import Path
from sktransformers.inference import directory

home = Path(sys.argv[1])
path, old, new = home / "model", home / "old", home / "new"
calls = [(os, name) for name in ("mkdir", "replace", "fsync", "chmod", "unlink", "rmdir")]
calls.append((directory, "_exchange"))

def read(path):
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]  # what is said in no fixed order, and tensors

def content(folder):
    return {str(p.relative_to(folder)): read(p) for p in folder.rglob("*") if p.is_file()}

def refuse(*paths):
    raise OSError("not on this file system")

def child(n, exchanges, write):
    count = 0
    def dying(real):
        def call(*args, **options):
            nonlocal count
            count += 1
            if count == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        return call
    for place, name in calls:
        setattr(place, name, dying(getattr(place, name)))
    if not exchanges:
        directory._exchange = refuse
    write()

def fork(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except OSError as error:
            print("error:", error, flush=True)
        except BaseException as error:
            print("unexpected:", repr(error), flush=True)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def put():
    with directory.appearing(path, overwrite=True) as folder:
        shutil.copytree(new, folder, dirs_exist_ok=True)

def save():
    estimator.save_pretrained(path)

def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    save()

def found():
    there = content(path)
    return [name for name, whole in wholes.items() if there == whole] or ["half"]

wholes = {"old": content(old), "new": content(new)}
steps, write = range(1, 200), put
if len(sys.argv) > 2:
    import torch
    torch.set_num_threads(1)
    import sktransformers
    estimator = sktransformers.load(new)
    shutil.copytree(old, path)
    fork(limited)
    print(*found(), len(list(home.glob(".*"))))
    steps, write = range(3, 200, 12), save
for exchanges in (True, False):
    seen = []
    for n in steps:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(old, path)
        status = fork(lambda: child(n, exchanges, write))
        directory.recover(path)
        seen += found()
        if status == 0:
            break
    print(*seen)
"""


@pytest.fixture(scope="module", params=["a copy", "the model"])
def killed(request, saved, other, tmp_path_factory):
    """What the script printed, and the path it wrote to."""
    home = tmp_path_factory.mktemp("killed")
    shutil.copytree(saved, home / "old")
    other.save_pretrained(home / "new")
    options = ["model"] if request.param == "the model" else []
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(home), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), home / "model"


def test_a_kill_leaves_the_old_model_or_the_new(killed):
    for line in killed[0][-2:]:  # where directories can change places, and where they cannot
        seen = line.split()
        assert set(seen) == {"old", "new"} and len(seen) > 3
        assert seen == sorted(seen, reverse=True), "from some step on it is the new one"
    for line in killed[0][:-2]:  # a disk that takes small files only
        assert line == "old 0" or (line.startswith("error:") and "File too large" in line)
        assert line == "old 0" or str(killed[1]) in line


def test_what_a_kill_leaves_can_be_loaded_and_is_cleaned_up(killed, clf, other, texts):
    path = killed[1]
    expected = other.predict_proba(texts)
    assert np.array_equal(sktransformers.load(path).predict_proba(texts), expected)
    left = list(path.parent.glob(".model.*"))
    assert len(left) > 3
    for folder in left:
        os.utime(folder, (0, 0))
    clf.save_pretrained(path)
    assert beside(path) == ["model", "new", "old"]


def test_a_model_that_a_crash_left_aside_is_found_again(model, clf, texts):
    former = model.with_name(f".model.{'0' * 32}.former")
    for load in (sktransformers.load, TransformerSequenceClassifier.from_pretrained):
        model.rename(former)
        assert np.array_equal(load(model).predict_proba(texts), clf.predict_proba(texts))
        assert beside(model) == ["model"]


def test_what_living_processes_write_stays(model, clf):
    with appearing(model.with_name("theirs")) as folder:
        os.utime(folder, (0, 0))
        theirs = folder.with_name(folder.name.replace("theirs", "model"))
        folder.rename(theirs)
        clf.save_pretrained(model)
        assert theirs.exists()
        theirs.rename(folder)
    young = model.with_name(f".model.{'1' * 32}.unfinished")
    young.mkdir()  # and not held yet
    mine = model.with_name(".model.of.mine.former")
    mine.mkdir()
    os.utime(mine, (0, 0))
    clf.save_pretrained(model)
    assert young.exists() and mine.exists()
    os.utime(young, (time.time() - 3600,) * 2)
    clf.save_pretrained(model)
    assert not young.exists() and mine.exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_all_is_on_disk_before_it_is_seen(model, clf, monkeypatch, exchanges):
    synced, order = set(), []

    def fsync(file):
        found = os.fstat(file)
        synced.add(found.st_ino)
        order.append("sync")

    def exchange(one, other):
        assert {path.stat().st_ino for path in (one, *one.rglob("*"))} <= synced
        order.append("exchange")
        if not exchanges:
            raise OSError(errno.EINVAL, "not on this file system")
        real(one, other)

    real = directory._exchange
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(directory, "_exchange", exchange)
    clf.save_pretrained(model)
    assert order[-2:] == ["exchange", "sync"] and model.parent.stat().st_ino in synced


@pytest.mark.parametrize("of", [sktransformers.saved, TransformerSequenceClassifier])
def test_a_model_that_is_replaced_while_it_is_read(model, other, texts, monkeypatch, of):
    load = getattr(of, "from_pretrained", None) or of.load

    def values(*args):
        monkeypatch.undo()
        other.save_pretrained(model)  # between its description and its weights
        return real(*args)

    real = persistence.directory.values
    monkeypatch.setattr(persistence.directory, "values", values)
    assert np.array_equal(load(model).predict_proba(texts), other.predict_proba(texts))


def test_an_interrupted_swap_is_undone(model, clf, monkeypatch):
    before, real = content(model), os.replace

    def replace(one, other):
        if str(other) == str(model) and ".unfinished" in str(one):
            raise KeyboardInterrupt
        real(one, other)

    def exchange(one, other):
        raise OSError

    monkeypatch.setattr(directory, "_exchange", exchange)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        clf.save_pretrained(model)
    assert content(model) == before and beside(model) == ["model"]


# ---------------------------------------------------------- rights and links


def test_rights_are_those_that_the_umask_leaves(clf, tmp_path):
    former = os.umask(0o027)
    try:
        clf.save_pretrained(tmp_path / "model")
    finally:
        os.umask(former)
    rights = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert rights == {0o640}
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    (tmp_path / "model").chmod(0o700)
    clf.save_pretrained(tmp_path / "model")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o700


def test_of_a_link_what_it_leads_to_is_replaced(model, other, texts):
    link = model.with_name("latest")
    link.symlink_to("model")
    other.save_pretrained(link)
    assert link.is_symlink() and beside(model) == ["latest", "model"]
    assert np.array_equal(
        sktransformers.load(model).predict_proba(texts), other.predict_proba(texts)
    )
    assert np.array_equal(
        sktransformers.load(link).predict_proba(texts), other.predict_proba(texts)
    )


# ---------------------------------------------------------------- overwriting


def test_a_saved_model_is_replaced_by_another(model, other, texts):
    other.save_pretrained(model)
    assert np.array_equal(
        sktransformers.load(model).predict_proba(texts), other.predict_proba(texts)
    )
    assert beside(model) == ["model"]


def _file(path):
    path.write_text("kept", "utf-8")


def _foreign(path):
    path.mkdir()
    (path / "mine").write_text("kept", "utf-8")


def _beside_ours(name):
    def make(path):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("kept", "utf-8")

    return make


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_foreign, "'mine'"),
        (_beside_ours("notes.txt"), "'notes.txt'"),
        (_beside_ours(".hidden"), "'.hidden'"),
        (_beside_ours("sub/notes.txt"), "'sub/notes.txt'"),
        (lambda path: (path / "link").symlink_to("/"), "'link'"),
        (lambda path: (path / NAME).write_text("{}"), "'config.json'"),
        (lambda path: edit(path, format=99), "'config.json'"),
    ],
    ids=["foreign", "beside", "hidden", "below", "link", "damaged", "newer"],
)
def test_anything_else_is_replaced_on_request_only(model, clf, texts, make, named):
    if make is _foreign:
        shutil.rmtree(model)
    make(model)
    before = content(model)
    with pytest.raises(FileExistsError, match=named) as caught:
        clf.save_pretrained(model)
    assert repr(str(model)) in str(caught.value) and "overwrite=True" in str(caught.value)
    assert content(model) == before
    clf.save_pretrained(model, overwrite=True)
    assert np.array_equal(sktransformers.load(model).predict_proba(texts), clf.predict_proba(texts))
    assert beside(model) == ["model"]


def test_a_file_is_never_replaced(clf, tmp_path):
    path = tmp_path / "model"
    _file(path)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="model"):
            clf.save_pretrained(path, overwrite=overwrite)
    assert path.read_text("utf-8") == "kept" and beside(path) == ["model"]


def test_an_empty_directory_is_taken(clf, tmp_path):
    (tmp_path / "model").mkdir()
    clf.save(tmp_path / "model")
    assert sktransformers.load(tmp_path / "model").classes_.tolist() == clf.classes_.tolist()


def test_the_same_model_gives_the_same_files(saved, model, tiny_backbone):
    sktransformers.load(saved).save_pretrained(model)
    before, after = content(saved), content(model)
    before.pop("optimizer.safetensors"), after.pop("optimizer.safetensors")  # in no fixed order
    assert after == before
    mentions = [name for name, data in content(saved).items() if tiny_backbone.encode() in data]
    assert mentions == [NAME]  # the parameter backbone
    assert (saved / NAME).read_text("utf-8").count(tiny_backbone) == 1


def test_needless_names_of_code_are_left_out(clf, tmp_path):
    new = copy.deepcopy(clf)
    new.model_.config.backbone_config.auto_map = {"AutoModel": "code.Model"}
    new.tokenizer_._auto_map = {"AutoTokenizer": ["code.Words", None]}
    new.save_pretrained(tmp_path / "model")
    assert not any(b"auto_map" in data for data in content(tmp_path / "model").values())
    sktransformers.load(tmp_path / "model")
    assert new.model_.config.backbone_config.auto_map  # it stays as it was


# ------------------------------------------------------------- writing fails


def _no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _serializing(*args, **options):
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        ("safetensors.torch", "save_file", _serializing),
        ("transformers.modeling_utils", "safe_save_file", _serializing),
        ("pathlib.Path", "write_bytes", _no_space),
        ("os", "fsync", _no_space),
        ("os", "mkdir", _no_space),
        ("transformers.PreTrainedTokenizerBase", "save_pretrained", _no_space),
    ],
)
def test_a_full_disk_leaves_what_was_there(model, clf, monkeypatch, owner, name, failure):
    before = content(model)
    target = f"{owner}.{name}"
    monkeypatch.setattr(target, failure)
    with pytest.raises(OSError, match="No space left") as caught:
        clf.save_pretrained(model)
        clf.save_pretrained(model, weights="delta")
    monkeypatch.undo()
    assert str(model) in str(caught.value)
    assert content(model) == before and beside(model) == ["model"]


def test_a_place_where_nothing_may_be_written(model, clf, monkeypatch):
    def denied(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(args[0]))

    before = content(model)
    monkeypatch.setattr(os, "mkdir", denied)
    for path in (model, model.with_name("new"), model / "below" / "it"):
        with pytest.raises(PermissionError, match="denied") as caught:
            clf.save_pretrained(path)
        assert str(path) in str(caught.value)
    monkeypatch.undo()
    assert content(model) == before and beside(model) == ["model"]
    with pytest.raises(OSError, match="below"):
        clf.save_pretrained(model / NAME / "below")


def test_an_interrupted_save_leaves_what_was_there(model, clf, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    before = content(model)
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        clf.save_pretrained(model)
    assert content(model) == before and beside(model) == ["model"]


def test_an_estimator_without_a_fit(model, make_clf):
    before = content(model)
    with pytest.raises(NotFittedError):
        make_clf().save_pretrained(model)
    assert content(model) == before


# ------------------------------------------------------------- loading fails


def test_every_file_is_missed(saved, tmp_path):
    names = sorted(content(saved))
    assert {"config.json", "model.safetensors", "tokenizer.json", NAME} <= set(names)
    for name in names:
        folder = Path(shutil.copytree(saved, tmp_path / name))
        (folder / name).unlink()
        if name.endswith(".md"):
            sktransformers.load(folder)
            continue
        with pytest.raises(SavedModelError) as caught:
            sktransformers.load(folder)
        assert name in str(caught.value) and str(folder) in str(caught.value)


def test_what_is_no_saved_model(saved, tmp_path, tiny_backbone):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for path in (tmp_path, tmp_path / "nothing", loop, tiny_backbone, saved / NAME, "a\0b"):
        with pytest.raises(SavedModelError) as caught:
            sktransformers.load(path)
        assert repr(str(path))[1:-1] in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"format": "1"}, "format"),
        ({"format": None}, "format"),
        ({"class": "Pipeline"}, "Pipeline"),
        ({"class": "os.system"}, "os.system"),
        ({"class": ["os"]}, "class"),
        ({"files": None}, "files"),
        ({"files": ["../../elsewhere"]}, "elsewhere"),
        ({"parameters": []}, "parameters"),
        ({"weights": {"kind": "none"}}, "none"),
        ({"model": {}}, NAME),
        ({"model": {"layout": "another"}}, NAME),
    ],
    ids=str,
)
def test_a_description_that_is_not_ours(model, entries, words):
    edit(model, **entries)
    for load in (sktransformers.load, TransformerSequenceClassifier.from_pretrained):
        with pytest.raises(SavedModelError, match=words) as caught:
            load(model)
        assert str(model) in str(caught.value)


def test_a_former_directory_elsewhere_is_left_alone(tmp_path):
    (tmp_path / f".other.{'0' * 32}.former").mkdir()
    recover(tmp_path / "model")
    recover(tmp_path / "none" / "model")
    assert not (tmp_path / "model").exists()

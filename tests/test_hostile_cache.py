"""Files in a cache that somebody wrote to do harm: not used, with a warning that names the file."""

import json
import os
import pickle
import struct
import time
import warnings

import numpy as np
import psutil
import pytest
import torch
from conftest import make_texts
from skorch.callbacks import Callback

from sktransformers import Cache
from sktransformers.training import frozen, store

SECONDS, BYTES = 3, 300 * 2**20  # of the CPU, however busy it is with others
X, Y = make_texts(24)


class Evil:
    """An object whose pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w')",))


@pytest.fixture
def sentinel(tmp_path):
    """A file that is there if code of a file has run."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "code was run"


@pytest.fixture
def precious(tmp_path):
    """A file of the user's that is elsewhere, and has to stay as it is."""
    path = tmp_path / "precious" / f"{'0' * 32}.safetensors"
    path.parent.mkdir()
    path.write_text("mine")
    os.utime(path, (1000, 1000))
    yield path
    assert path.read_text() == "mine"
    assert path.stat().st_mtime == 1000
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def dump(path, header, data=b""):
    """Write a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def said(about="{}", digest="0"):
    return {"header": json.dumps({"about": about, "digest": digest})}


# --------------------------------------------------------------------- files


def forged(**entries):
    return {"__metadata__": said(), **entries}


FORGED = {
    "no tensors": ({}, b""),
    "no metadata": ({"x": entry()}, bytes(24)),
    "metadata of another type": ({"__metadata__": [1], "x": entry()}, bytes(24)),
    "metadata without ours": ({"__metadata__": {"format": "pt"}}, b""),
    "ours is no JSON": ({"__metadata__": {"header": "{"}}, b""),
    "ours is deep": ({"__metadata__": {"header": "[" * 10**6}}, b""),
    "ours is a list": ({"__metadata__": {"header": "[1]"}}, b""),
    "ours is a number": ({"__metadata__": {"header": "9" * 10**6}}, b""),
    "about is no text": ({"__metadata__": {"header": '{"about": 1, "digest": "0"}'}}, b""),
    "about is deep": ({"__metadata__": said("[" * 10**6)}, b""),
    "half a character": ({"__metadata__": said("\ud800")}, b""),
    "another digest": (forged(x=entry()), bytes(24)),
    "another type": (forged(x=entry("F8_E4M3")), bytes(24)),
    "type of no type": (forged(x=entry({})), bytes(24)),
    "negative": (forged(x=entry(shape=(-2, -3))), bytes(24)),
    "fraction": (forged(x=entry(shape=(2.0, 3.0))), bytes(24)),
    "text": (forged(x=entry(shape=("2", "3"))), bytes(24)),
    "no shape": (forged(x={"dtype": "F32", "data_offsets": [0, 24]}), bytes(24)),
    "shape is a number": (forged(x={**entry(), "shape": 6}), bytes(24)),
    "large": (forged(x=entry(shape=(10**30, 0), offsets=(0, 0))), b""),
    "large numbers": (forged(x=entry(shape=[10**4000] * 500)), bytes(24)),
    "many axes": (forged(x=entry(shape=[1] * 10**5, offsets=(0, 4))), bytes(4)),
    "more than there is": (forged(x=entry(shape=(10**9, 3), offsets=(0, 12 * 10**9))), bytes(24)),
    "less than there is": (forged(x=entry()), bytes(25)),
    "other offsets": (forged(x=entry(offsets=(4, 28))), bytes(28)),
    "before the data": (forged(x=entry(offsets=(-8, 16))), bytes(24)),
    "one offset": (forged(x=entry(offsets=(0,))), bytes(24)),
    "overlapping": (forged(x=entry(), y=entry()), bytes(24)),
    "overlapping twice": (forged(x=entry(), y=entry(offsets=(12, 36))), bytes(36)),
    "gap": (forged(x=entry(), y=entry(offsets=(28, 52))), bytes(52)),
    "tensor is a list": (forged(x=[1]), b""),
    "tensor is null": (forged(x=None), b""),
    "header is a list": ([1], b""),
    "header is deep": (b"[" * 10**6, b""),
    "header is no text": (b"\xff" * 100, b""),
    "header is empty": (b"", b"abc"),
    "no boolean": (forged(x=entry("BOOL", (4,), (0, 4))), b"\x01\x02\x00\x00"),
}


def refused(path):
    """Check that a file is not read, soon, within bounds, with a warning that names it."""
    before, begin = psutil.Process().memory_info().rss, time.process_time()
    with pytest.warns(UserWarning) as warned:
        assert store.read(path) is None
    assert len(warned) == 1
    assert str(path) in str(warned[0].message)
    assert len(str(warned[0].message)) < 500 + len(str(path))
    with pytest.raises((OSError, ValueError)):
        store.peek(path, "x")
    assert time.process_time() - begin < SECONDS
    assert psutil.Process().memory_info().rss - before < BYTES


@pytest.mark.parametrize("name", FORGED)
def test_forged_files(name, tmp_path):
    header, data = FORGED[name]
    dump(tmp_path / "a.safetensors", header, data)
    refused(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_files_of_other_kinds(tmp_path, sentinel, precious):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Evil(sentinel)))
    refused(path)
    np.save(tmp_path / "a.npy", np.array([Evil(sentinel)]), allow_pickle=True)
    (tmp_path / "a.npy").rename(path)
    refused(path)
    torch.save({"x": Evil(sentinel)}, path)
    refused(path)
    os.mkfifo(path)
    refused(path)
    path.symlink_to(precious)
    refused(path)
    path.symlink_to("/dev/zero")
    refused(path)
    path.symlink_to(path)
    refused(path)
    path.mkdir()
    refused(path)


@pytest.mark.parametrize("length", [0, 7, 8, 2**30, 2**40, 2**63, 2**64 - 1])
def test_headers_that_are_too_long(length, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length))
    refused(path)
    path.write_bytes(struct.pack("<Q", length))
    os.truncate(path, 2**31)  # sparse
    refused(path)


def test_more_bytes_than_are_asked_for(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write(path, {"x": torch.zeros(1000)}, {})
    with pytest.raises(ValueError, match="more than are read"):
        store.load(path, most=4000)
    assert store.load(path, most=5000)[0]["x"].shape == (1000,)
    dump(path, forged(x=entry(shape=(2**50,), offsets=(0, 2**52))))
    with path.open("r+b") as file:
        try:
            file.truncate(path.stat().st_size + 2**52)
        except OSError:
            pytest.skip("no file system for such a file")
    refused(path)


def test_files_that_change_while_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    store.write(path, {"x": torch.arange(100_000), "y": torch.ones(3)}, {})
    with store._opened(path, np.inf) as file:
        os.truncate(path, 1000)
        with pytest.raises(ValueError, match="ends too soon"):
            file.get("x")
    store.write(path, {"x": torch.arange(100_000)}, {})
    with store._opened(path, np.inf) as file:
        path.unlink()
        assert torch.equal(file.get("x"), torch.arange(100_000))
    store.write(path, {"x": torch.arange(100_000)}, {})
    tensors, _ = store.load(path)
    os.truncate(path, 0)  # what was read is not a view of the file
    assert torch.equal(tensors["x"], torch.arange(100_000))
    refused(path)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    store.write(path, {"x": torch.ones(3)}, {})

    def refuse(*_, **__):
        raise PermissionError("not for you")

    monkeypatch.setattr(store.os, "open", refuse)
    refused(path)
    assert path.exists()


def test_names_lead_nowhere(tmp_path):
    names = ["../../x", "/etc/passwd", "a\0b", "", "\n", "x" * 10_000]
    store.write(tmp_path / "a", {name: torch.ones(1) for name in names}, {})
    assert store.read(tmp_path / "a")[0].keys() == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_HEADER", 1000)
    with pytest.raises(OSError, match="header"):
        store.write(tmp_path / "a", {"x": torch.ones(1)}, "é" * 1000)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ features


@pytest.fixture
def location(tmp_path):
    """Where a classifier keeps features: 24 texts in one file."""
    return tmp_path / "memory"


@pytest.fixture
def fit(make_clf, location):
    """A function that fits, and says how many forward passes of the backbone it took."""

    def fit():
        clf = make_clf(finetune="head", memory=location, max_epochs=1, batch_size=24, verbose=1)
        return clf.fit(X, Y)

    return fit


@pytest.fixture(scope="module")
def expected(make_clf):
    return make_clf(finetune="head", max_epochs=1, batch_size=24).fit(X, Y).predict_proba(X)


def features_in(location):
    (path,) = location.rglob("features/*/*.safetensors")
    return path


def again(fit, expected, path, capsys, warned=True):
    """Check that a fit computes everything again, with one warning that names the file."""
    capsys.readouterr()
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        clf = fit()
    assert time.process_time() - begin < 2 * SECONDS
    named = [str(each.message) for each in found if str(path) in str(each.message)]
    assert len(named) == warned, [str(each.message) for each in found]
    n_distinct = len(set(X))
    assert f"{n_distinct} of {n_distinct} distinct" in capsys.readouterr().out
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


def rewritten(path, **changes):
    """The file with other tensors, or another text about them, and a digest that is right."""
    tensors, about = store.load(path)
    about = changes.pop("about", about)
    tensors |= {name: change(tensors[name]) for name, change in changes.items()}
    path.unlink()
    store.write(path, {k: x for k, x in tensors.items() if x is not None}, about)


def with_nan(x):
    return torch.cat([x[:-1], torch.full_like(x[-1:], float("nan"))])


def one_more_and_less(sizes):
    return sizes + torch.tensor([1, -1] * (len(sizes) // 2) + [0] * (len(sizes) % 2))


REWRITTEN = {
    "fewer keys": {"keys": lambda x: x[1:]},
    "narrow keys": {"keys": lambda x: x[:, :8]},
    "flat keys": {"keys": lambda x: x.reshape(-1)},
    "keys of floats": {"keys": lambda x: x.float()},
    "keys of bfloat16": {"keys": lambda x: x.bfloat16()},
    "one key": {"keys": lambda x: x[0, 0]},
    "equal keys": {"keys": lambda x: x[:1].expand_as(x)},
    "no keys": {"keys": lambda x: None},
    "fewer sizes": {"sizes": lambda x: x[1:]},
    "sizes of floats": {"sizes": lambda x: x.double()},
    "negative sizes": {"sizes": lambda x: torch.cat([-x[:1], x[1:-1], x[-1:] + 2 * x[:1]])},
    "huge sizes": {"sizes": lambda x: x + 2**62},
    "sizes that overflow": {
        "sizes": lambda x: torch.cat([x[:1] + 2**62, x[1:3] + 2**62, x[3:4] + 2**62, x[4:]])
    },
    "zero sizes": {"sizes": torch.zeros_like, "vectors": lambda x: x[:0]},
    "other sizes": {"sizes": one_more_and_less},
    "no sizes": {"sizes": lambda x: None},
    "fewer vectors": {"vectors": lambda x: x[1:]},
    "narrow vectors": {"vectors": lambda x: x[:, 1:]},
    "wide vectors": {"vectors": lambda x: x.repeat(1, 2)},
    "flat vectors": {"vectors": lambda x: x.reshape(-1)},
    "half vectors": {"vectors": lambda x: x.half()},
    "double vectors": {"vectors": lambda x: x.double()},
    "vectors of integers": {"vectors": lambda x: x.long()},
    "NaN": {"vectors": with_nan},
    "infinite": {"vectors": lambda x: x / 0},
    "no vectors": {"vectors": lambda x: None},
    "about another type": {"about": {"dtype": "float64"}},
    "about half": {"about": {"dtype": "float16"}},
    "about no type": {"about": {"dtype": "nn"}},
    "about code": {"about": {"dtype": "load"}},
    "about a list": {"about": [1]},
    "about nothing": {"about": None},
}


def test_features_that_are_not_what_they_say(fit, expected, location, capsys):
    fit()
    for changes in REWRITTEN.values():
        path = features_in(location)
        rewritten(path, **changes)
        again(fit, expected, path, capsys)
        assert not path.exists()  # and another one is there


def test_features_of_other_kinds(fit, expected, location, capsys, sentinel, precious):
    fit()

    def spoiled(change):
        path = features_in(location)
        path.unlink()
        change(path)
        again(fit, expected, path, capsys)

    spoiled(lambda path: path.write_bytes(pickle.dumps(Evil(sentinel))))
    spoiled(lambda path: path.write_bytes(b""))
    spoiled(lambda path: dump(path, b"[" * 10**6))
    spoiled(lambda path: path.symlink_to(precious))
    spoiled(lambda path: path.symlink_to("/dev/zero"))
    spoiled(os.mkfifo)
    path = features_in(location)
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    again(fit, expected, path, capsys)
    assert path.is_dir()  # nobody's to delete
    path.rmdir()
    other = features_in(location)
    (other.parent / "notes.txt").write_text("mine")
    (other.parent / "odd.safetensors").write_bytes(content)
    capsys.readouterr()
    fit()
    assert "0 of" in capsys.readouterr().out
    assert (other.parent / "notes.txt").read_text() == "mine"


def test_features_that_predictions_would_read(fit, expected, location):
    clf = fit()
    many = X * 3  # few are computed sooner than looked for
    rewritten(features_in(location), vectors=with_nan)
    with pytest.warns(UserWarning, match="damaged and has been deleted"):
        found = clf.predict_proba(many)
    np.testing.assert_allclose(found[: len(X)], expected, rtol=0, atol=1e-6)


def test_the_folder_is_no_link(fit, location, precious):
    location.mkdir()
    (location / "sktransformers_cache").symlink_to(precious.parent)
    with pytest.raises(ValueError, match="sktransformers_cache' is a link"):
        fit()
    with pytest.raises(ValueError, match="is a link"):
        Cache(location).clear()


@pytest.mark.parametrize("name", ["features", "features/*", "states", "states/*"])
def test_folders_inside_are_no_links(name, make_clf, location, expected, precious):
    clf = make_clf(finetune="head", memory=location, max_epochs=1, batch_size=24)
    if name.startswith("states"):  # there are none with other schedules
        clf.set_params(schedule="constant", warmup=0)
    clf.fit(X, Y)
    (folder,) = location.glob(f"sktransformers_cache/{name}")
    folder.rename(location / "there")
    folder.symlink_to(precious.parent)
    with pytest.warns(UserWarning, match="is a link, which may lead anywhere"):
        clf.fit(X, Y)
    clf.memory = Cache(location, max_disk_mb=0.001)
    clf.fit(X[:12], Y[:12])
    Cache(location).clear()
    assert not (location / "sktransformers_cache").exists()


def test_clearing_follows_no_link(fit, location, precious):
    fit()
    folder = location / "sktransformers_cache"
    (folder / "elsewhere").symlink_to(precious.parent)
    (folder / "features" / "file").symlink_to(precious)
    store.make_room(folder, 0.0001)
    Cache(location).clear()
    assert not folder.exists()


def test_features_that_are_no_numbers_are_not_kept(tmp_path, monkeypatch):
    space = frozen.Space(tmp_path, "name", 100)
    sizes = np.ones(2, np.int64)
    keys = [b"0" * 16, b"1" * 16]
    features = frozen.Features(keys, sizes, np.array([[1.0], [np.nan]], np.float32), None)
    features.dtype = torch.float32
    space.write(features, keys, np.arange(2))
    assert list(tmp_path.rglob("*.safetensors")) == []


# -------------------------------------------------------- states of training


DEEP = []
for _ in range(30):
    DEEP = [DEEP]
ODD = [
    None,
    True,
    "x",
    "9" * 50,
    -1,
    2**40,
    10**30,
    0.5,
    float("nan"),
    [],
    [None],
    {},
    {"x": 1},
    DEEP,
]


def tensor_changes(x):
    """What may be put in the place of a tensor."""
    yield None
    yield x.reshape(-1)[:-1]
    yield x[None]
    yield x.to(torch.float64 if x.dtype != torch.float64 else torch.int8)
    yield torch.zeros(0, dtype=x.dtype)
    if x.is_floating_point():
        yield torch.full_like(x, float("nan"))
        yield x.to(torch.bfloat16)
    else:
        yield torch.full_like(x, torch.iinfo(x.dtype).max if x.dtype != torch.bool else 1)


def json_changes(about, depth=0):
    """The same description with one entry changed, or gone."""
    entries = about.items() if isinstance(about, dict) else enumerate(about)
    for key, value in list(entries):
        for odd in ODD:
            yield _with(about, key, odd)
        if isinstance(about, dict):
            yield {name: x for name, x in about.items() if name != key}
        if isinstance(value, (dict, list)) and depth < 3:
            for changed in list(json_changes(value, depth + 1))[:60]:
                yield _with(about, key, changed)


def _with(about, key, value):
    new = about.copy()
    new[key] = value
    return new


def some_of(things, n):
    """A spread of so many of a long list."""
    things = list(things)
    return things[:: max(1, len(things) // n)]


def spoiled_states(tensors, about):
    """States that are not what they say: what is wrong, tensors, description."""
    kinds = {}  # one tensor of each kind
    for name in tensors:
        kinds.setdefault(name.partition("/")[0] + name.rpartition("/")[2][:8], name)
    for name in some_of(kinds.values(), 8):
        for change in tensor_changes(tensors[name]):
            new = {**tensors, name: change}
            yield f"{name}: {change}", {k: x for k, x in new.items() if x is not None}, about
    history = json.loads(tensors["history"].numpy().tobytes())
    texts = [json.dumps(x).encode() for x in [*ODD, *some_of(json_changes(history), 10)]]
    for text in (*texts, b"[" * 10**6, b"\xff", b"[1"):
        new = {**tensors, "history": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
        yield f"history: {text[:500]}", new, about
    for changed in [*ODD[:4], *some_of(json_changes(about), 40)]:
        yield f"about: {changed}"[:1500], tensors, changed


class Stop(Callback):
    """Ends training as a signal would, at the begin of the second epoch."""

    armed = False

    def on_epoch_begin(self, net, **kwargs):
        if Stop.armed and len(net.history) == 2:
            raise KeyboardInterrupt


@pytest.fixture(params=["memory", "checkpoint"])
def continued(request, make_clf, tmp_path):
    """What goes on with a training, the file of its state, and the folder."""
    params = {"schedule": "constant", "warmup": 0, "batch_size": 12, "head_init": "random"}
    params[request.param] = tmp_path / "c"
    if request.param == "checkpoint":
        params["callbacks"] = [Stop()]
        Stop.armed = True
        with pytest.raises(KeyboardInterrupt):
            make_clf(max_epochs=2, **params).fit(X, Y)
        Stop.armed = False
    else:
        make_clf(max_epochs=1, **params).fit(X, Y)
    (path,) = (tmp_path / "c").rglob("*.safetensors")
    return lambda: make_clf(max_epochs=2, **params).fit(X, Y), path, tmp_path / "c"


def test_states_that_are_not_what_they_say(continued, capsys):
    go_on, path, folder = continued
    tensors, about = store.load(path)
    n_left_out, problems = 0, []
    some = list(spoiled_states(tensors, about))[path.name.startswith("step") :: 4]  # others of each
    for what, changed_tensors, changed_about in some:
        for each in folder.rglob("*.safetensors"):
            each.unlink()
        store.write(path, changed_tensors, changed_about)
        begin = time.process_time()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                go_on().predict_proba(X)
            except ValueError as error:
                if str(folder) not in str(error) or len(str(error)) > 2000:
                    problems.append(f"{what}: {error}")
            except Exception as error:
                problems.append(f"{what}: {error!r}")
        n_left_out += any(str(path) in str(each.message) for each in found)
        if time.process_time() - begin > SECONDS:
            problems.append(f"{what}: takes long")
    assert not problems, "\n".join(problems)
    assert len(some) > 25 and n_left_out > 3


def test_checkpoints_are_not_written_through_links(make_clf, tmp_path, precious):
    folder = tmp_path / "c"
    make_clf(max_epochs=1, checkpoint=folder).fit(X, Y)
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    (state,) = run.glob("step-*")
    state.unlink()
    state.symlink_to(precious)
    with pytest.warns(UserWarning, match=f"{state.name} cannot be used.*it is a link"):
        make_clf(max_epochs=1, checkpoint=folder).fit(X, Y)
    run.rename(tmp_path / "there")
    run.symlink_to(precious.parent)
    with pytest.raises(ValueError, match=f"checkpoint: {run} cannot be used: {run} is a link"):
        make_clf(max_epochs=1, checkpoint=folder).fit(X, Y)
    make_clf(max_epochs=1, checkpoint=folder, random_state=None).fit(X[:6], Y[:6])
    (seed,) = folder.glob("*.seed")
    seed.unlink()
    seed.symlink_to(precious)
    with pytest.raises(ValueError, match=f"checkpoint: {seed} cannot be used"):
        make_clf(max_epochs=1, checkpoint=folder, random_state=None).fit(X[:6], Y[:6])


def test_files_of_checkpoints_of_other_kinds(make_clf, tmp_path, sentinel):
    folder = tmp_path / "c"
    expected = make_clf(max_epochs=1, checkpoint=folder).fit(X, Y).predict_proba(X)
    (state,) = folder.rglob("step-*")
    for spoil in (
        lambda: state.write_bytes(pickle.dumps(Evil(sentinel))),
        lambda: torch.save({"x": Evil(sentinel)}, state),
        lambda: state.write_bytes(struct.pack("<Q", 2**40)),
        lambda: dump(state, b"[" * 10**6),
        lambda: os.mkfifo(state),
        lambda: state.symlink_to("/dev/zero"),
    ):
        state.unlink()
        spoil()
        begin = time.process_time()
        with pytest.warns(UserWarning, match=f"{state.name} cannot be used"):
            clf = make_clf(max_epochs=1, checkpoint=folder).fit(X, Y)
        assert time.process_time() - begin < 2 * SECONDS
        np.testing.assert_array_equal(clf.predict_proba(X), expected)

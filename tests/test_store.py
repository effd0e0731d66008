"""Files of tensors: whole or not there, and within a limit."""

import os

import pytest
import torch
from hypothesis import given, strategies as st

from sktransformers.training import store

TENSORS = {
    "numbers": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.tensor([0.1, -0.0, float("nan")], dtype=torch.bfloat16),
    "counter": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
}
ABOUT = {"n": 2**100, "x": 0.1, "nothing": None, "rows": [{"nan": float("inf")}], "é": "ü"}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "down.safetensors"
    store.write(path, TENSORS, ABOUT)
    tensors, about = store.read(path)
    assert about == ABOUT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory(tmp_path):
    whole = torch.arange(4.0)
    store.write(tmp_path / "a", {"whole": whole, "part": whole[1:], "same": whole.view(2, 2)}, {})
    tensors, _ = store.read(tmp_path / "a")
    torch.testing.assert_close(tensors["part"], whole[1:])


def test_others_may_read_what_the_process_lets_them(tmp_path):
    store.write(tmp_path / "a", TENSORS, ABOUT)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_for_reading_only(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("for reading only")

    store.write(tmp_path / "a", TENSORS, ABOUT)
    (tmp_path / "damaged").write_text("hello")
    monkeypatch.setattr(store.os, "utime", refuse)
    monkeypatch.setattr(store.Path, "unlink", refuse)
    _, about = store.read(tmp_path / "a")
    assert about == ABOUT
    with pytest.warns(UserWarning, match="damaged was damaged"):
        assert store.read(tmp_path / "damaged") is None


def test_nothing_there(tmp_path):
    assert store.read(tmp_path / "nothing") is None


@pytest.mark.filterwarnings("ignore:.*what it held is computed again:UserWarning")
@given(st.data())
def test_any_other_byte_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    store.write(path, TENSORS, ABOUT)
    found = bytearray(path.read_bytes())
    i = data.draw(st.integers(0, len(found) - 1))
    found[i] ^= data.draw(st.integers(1, 255))
    path.write_bytes(found)
    result = store.read(path)
    if result is not None:  # blanks that fill the header up may be others
        tensors, about = result
        assert about == ABOUT
        assert all(tensors[name].nbytes == TENSORS[name].nbytes for name in TENSORS)
    else:
        assert not path.exists()


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def make_files(folder, n_kb):
    for age, (name, n) in enumerate(n_kb.items()):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(bytes(n * 1024))
        os.utime(path, (1000 + age, 1000 + age))


def test_the_oldest_goes_first(tmp_path):
    make_files(tmp_path, {"a/old": 300, "b/older than new": 300, "a/new": 300})
    assert store.make_room(tmp_path, 1)
    assert len(sizes(tmp_path)) == 3
    assert store.make_room(tmp_path, 1, 200 * 1024)
    assert set(sizes(tmp_path)) == {"older than new", "new"}
    assert store.make_room(tmp_path, 1, 1024 * 1024)
    assert sizes(tmp_path) == {}


def test_what_would_fill_the_folder_alone_drives_nothing_out(tmp_path):
    make_files(tmp_path, {"a": 300})
    assert not store.make_room(tmp_path, 1, 1024 * 1024 + 1)
    assert set(sizes(tmp_path)) == {"a"}


def test_reading_is_using(tmp_path):
    for name in ("first", "second"):
        store.write(tmp_path / name, {"x": torch.zeros(1024)}, {})
        os.utime(tmp_path / name, (1000, 1000 if name == "first" else 2000))
    store.read(tmp_path / "first")
    assert store.make_room(tmp_path, 6 / 1024)
    assert set(sizes(tmp_path)) == {"first"}


def test_no_folder_no_files(tmp_path):
    assert store.make_room(tmp_path / "none", 1)


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        store.write(tmp_path / "a", {}, {"x": object()})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        store.write(tmp_path / "folder", TENSORS, {})
    assert sizes(tmp_path) == {}

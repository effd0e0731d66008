"""What frozen parts of a model give for the rows of a training, computed once.

A part of the backbone that is not trained computes as in prediction, so it gives the same for a
sequence in every epoch. Its outputs are kept, and training begins behind them: in front of the
head where nothing else has weights, else in front of the lowest block that is trained.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
import warnings
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from sktransformers.inputs.batching import Encoded, Ragged, pad, starts
from sktransformers.modules.backbone import below_pooler, hidden_size, vector_size
from sktransformers.modules.dispatch import is_offloaded
from sktransformers.modules.resuming import Places
from sktransformers.training import store

_FORMAT = 2  # of the files, and of what their numbers mean
_MB = 2**20
_PIECE = 2**15  # vectors that are computed before they are put away
_MOST_A_FILE = 256 * _MB  # bytes that are read and checked at once
_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
_N_TRIED = 5  # sequences of a trial
# Of a configuration, what says nothing about numbers.
_NAMES = {"_name_or_path", "transformers_version", "id2label", "label2id", "problem_type"}


class Features:
    """Vectors of distinct sequences, as many of each as are kept of it.

    Parameters
    ----------
    keys : list of bytes
        Key of each sequence.
    sizes : ndarray of shape (n_sequences,)
        Vectors of each.
    flat : ndarray of shape (n_vectors, width)
        The vectors, sequence after sequence, to be filled.
    path : str or None
        The file that flat is mapped to.
    """

    def __init__(self, keys: list[bytes], sizes: np.ndarray, flat: np.ndarray, path: str | None):
        self.numbers = {key: i for i, key in enumerate(keys)}
        self.sizes = sizes
        self.places = Ragged(np.empty(0), starts(sizes))
        self.flat = flat
        self.path = path
        self.dtype: torch.dtype | None = None  # of the vectors as they were computed

    def put(self, which: np.ndarray, vectors: Tensor) -> None:
        """Keep the vectors of some sequences."""
        self.dtype = vectors.dtype
        precise = torch.promote_types(vectors.dtype, torch.float32)
        array = vectors.to("cpu", precise).numpy()
        with np.errstate(over="ignore"):
            kept = array.astype(self.flat.dtype)
        if not np.isfinite(kept).all() and np.isfinite(array).all():
            raise ValueError(
                f"The frozen part of the backbone gives numbers up to {np.abs(array).max():.3g}, "
                f'which float16 does not hold: memory=Cache(dtype="float16") does not go with '
                f"this backbone."
            )
        self.flat[self.places.positions(which)] = kept

    def get(self, keys: Iterable[bytes], device: torch.device) -> Tensor | None:
        """Vectors of sequences, one sequence after the other; None if one is not known."""
        numbers = list(map(self.numbers.get, keys))
        if None in numbers:
            return None
        found = np.asarray(self.flat[self.places.positions(np.array(numbers, np.int64))])
        return torch.from_numpy(found).to(device, self.dtype)


class Frozen:
    """Outputs of the frozen parts of a model; a context of one training.

    Parameters
    ----------
    cache : Cache
        Where they are kept, and how.
    verbose : bool
        Whether to say what is done.
    """

    def __init__(self, cache: Any, verbose: bool):
        self.cache = cache
        self.verbose = verbose
        self.autocast_dtype: torch.dtype | None = None
        self._features: dict[float, Features] = {}
        self._depth: Callable[[int], float] = lambda epoch: 0
        self._now: float = 0
        self._scratch: str | None = None
        self._recalled: str | None = None

    def __enter__(self) -> "Frozen":
        return self

    def __exit__(self, *_: Any) -> None:
        self._features.clear()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def begin_epoch(self, epoch: int) -> None:
        """Forget what is needed no more."""
        self._now = self._depth(epoch)
        for depth in [depth for depth in self._features if depth > self._now]:
            path = self._features.pop(depth).path
            if path is not None:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def vectors(self, encoded: Encoded, device: torch.device) -> Tensor | None:
        """What stands in front of the head for all sequences, in their order, if it is kept."""
        if not math.isinf(self._now) or self._now not in self._features:
            return None
        keys = _keys(encoded, np.arange(len(encoded.sequences)), True)
        return self._features[self._now].get(keys, device)

    def feed(
        self,
        encode: Callable[..., Tensor],
        encoded: Encoded,
        which: np.ndarray,
        pad_id: int,
        device: torch.device,
    ) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
        """A first stage of the model for some sequences, and its inputs by name.

        Where what is kept does not hold all of them, both are as without it.
        """
        features = self._features.get(self._now)
        if features is not None:
            keys = _keys(encoded, which, math.isinf(self._now))
            kept = features.get(keys, device)
            if kept is not None:
                return self._behind(encode, kept, encoded, which, pad_id, device)
        return encode, pad(encoded, which, pad_id, device)

    def _behind(
        self,
        encode: Callable[..., Tensor],
        kept: Tensor,
        encoded: Encoded,
        which: np.ndarray,
        pad_id: int,
        device: torch.device,
    ) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
        if math.isinf(self._now):
            return encode, {"kept": kept}
        inputs = pad(encoded, which, pad_id, device)
        mask = inputs["attention_mask"].bool()
        states = kept.new_zeros(*mask.shape, kept.shape[1])
        states[mask] = kept
        return partial(self._go_on, encode, int(self._now)), {"states": states, **inputs}

    def _go_on(
        self, encode: Callable[..., Tensor], place: int, states: Tensor, **inputs: Tensor
    ) -> Tensor:
        with self._places.resumed(place, states):
            return encode(**inputs)

    # ------------------------------------------------------------ what is kept

    def prepare(
        self,
        model: Any,
        depth: Callable[[int], float],
        epochs: range,
        rows: Sequence[Encoded],
        predictor: Any,
    ) -> None:
        """Compute, or find in the folder, what the frozen parts give for all rows.

        Parameters
        ----------
        model : PreTrainedModel
            One of ours, with what is frozen as it stays.
        depth : callable
            ``depth(epoch)`` is how much of the backbone is frozen, as in `Strategy.n_frozen`.
        epochs : range
            The epochs of this training.
        rows : sequence of Encoded
            Training rows and those of validation.
        predictor : Predictor
            Runs the model, in the precision of training.
        """
        depths = [n for n in _values(depth, epochs) if n > 0]
        folder = self._folder(model) if depths else None
        if not depths or not (self.cache.max_ram_mb or folder):
            return
        self.autocast_dtype = predictor.autocast_dtype
        self._model = model
        was_training = model.training
        model.eval()
        try:
            everything = Encoded.concatenate(rows)
            self._depth = depth
            depths = self._plan(depths, everything, predictor.pad_id)
            if depths:
                self._compute(depths, everything, predictor, folder)
        finally:
            model.train(was_training)
            del self._model
        self.begin_epoch(epochs[0])

    def recall(self, model: Any, encoded: Encoded, predictor: Any) -> None:
        """Find in the folder what it has of some rows, for a model of which the head was trained.

        Parameters are as in `prepare`. Nothing is computed and nothing is written.
        """
        folder = self._folder(model)
        if folder is None or not folder.is_dir() or model.fixed_stage() is None:
            return
        if self.cache.dtype == "float16":  # predictions would hang on what happens to be there
            return
        self.autocast_dtype = predictor.autocast_dtype
        self._model, self._now = model, math.inf
        distinct, keys = _distinct(encoded, True)
        if self._allocate([math.inf], keys, np.diff(distinct.outputs(model.unit)), folder):
            features = self._features[math.inf]
            if self._recalled is None:  # the weights do not change from one call to the next
                self._recalled = self._name(math.inf)
            space = Space(folder, self._recalled, self.cache.max_disk_mb)
            for number in space.read(features, self._dtypes()):
                del features.numbers[keys[number]]
        del self._model

    def _folder(self, model: Any) -> Path | None:
        """The folder, unless the same weights may give something else another time."""
        folder = self.cache._folder()
        if folder is not None and is_offloaded(model):
            self._say(f"What frozen parts give is not kept in {folder}: parts lie elsewhere.")
            return None
        if folder is None or store.is_known(*model.modules()):
            return folder
        self._say(f"What frozen parts give is not kept in {folder}: the model's code is of others.")
        return None

    def _plan(self, depths: list[float], encoded: Encoded, pad_id: int) -> list[float]:
        """Where what is kept lies: inf in front of the head, else behind so many blocks."""
        fixed = self._model.fixed_stage() is not None
        if fixed and depths == [math.inf]:
            return depths
        try:
            self._places = Places(self._model.backbone)
            n_blocks = len(self._places.blocks)
            places = [int(min(n, n_blocks)) for n in depths]
            objection = self._places.objection(places, self._some(encoded, pad_id))
        except ValueError as error:
            objection = str(error)
        if not objection:
            depth = self._depth
            self._depth = lambda epoch: min(depth(epoch), n_blocks)
            return list(dict.fromkeys(map(float, places)))
        self._say(f"The frozen part of the backbone is computed in every epoch: {objection}.")
        return [math.inf] if fixed and math.inf in depths else []

    def _some(self, encoded: Encoded, pad_id: int) -> dict[str, Tensor]:
        """A few sequences of different lengths."""
        order = np.argsort(encoded.sequences.lengths, kind="stable")
        some = order[np.linspace(0, len(order) - 1, _N_TRIED).astype(int)]
        return pad(_bare(encoded), np.unique(some), pad_id, self._model.device)

    def _dtypes(self) -> set[torch.dtype]:
        """Types that vectors may be computed in."""
        dtype = self._model.backbone.dtype
        autocast = self.autocast_dtype
        return {dtype} if autocast is None else {dtype, autocast, torch.float32}

    def _say(self, message: str) -> None:
        if self.verbose:
            print(message)

    def _compute(
        self,
        depths: list[float],
        everything: Encoded,
        predictor: Any,
        folder: Path | None,
    ) -> None:
        at_head = math.isinf(depths[0])
        encoded, keys = _distinct(everything, at_head)
        unit = self._model.unit if at_head else "token"
        sizes = np.diff(encoded.outputs(unit))
        depths = self._allocate(depths, keys, sizes, folder)
        if not depths:
            return
        spaces: dict[float, Space] = {}
        missing = {depth: np.arange(len(keys)) for depth in depths}
        if folder is not None:
            for depth in depths:
                space = Space(folder, self._name(depth), self.cache.max_disk_mb)
                missing[depth] = space.read(self._features[depth], self._dtypes())
                spaces[depth] = space
        wanted = np.unique(np.concatenate(list(missing.values())))
        wanted = wanted[np.argsort(-encoded.sequences.lengths[wanted], kind="stable")]
        encode = self._model.fixed_stage() if at_head else partial(self._states, depths)
        pieces = (np.cumsum(sizes[wanted]) - sizes[wanted]) * len(depths) // _PIECE
        for piece in np.split(wanted, np.flatnonzero(np.diff(pieces)) + 1):
            if len(piece):
                found = predictor.vectors(encode, encoded.take(piece), unit)
                for depth, part in zip(depths, found.chunk(len(depths), dim=1)):
                    self._features[depth].put(piece, part)
        for depth, space in spaces.items():
            if not space.write(self._features[depth], keys, missing[depth]):
                break  # it has said why
        self._say(
            f"Frozen parts of the backbone run once: {len(wanted)} of {len(keys)} distinct "
            f"sequences, the others are in {folder}."
            if folder is not None
            else f"Frozen parts of the backbone run once, for {len(keys)} distinct sequences."
        )

    def _states(self, depths: list[float], **inputs: Tensor) -> Tensor:
        mask = inputs["attention_mask"].bool()
        states = self._places.states([int(depth) for depth in depths], **inputs)
        return torch.cat([part[mask] for part in states], dim=1)

    def _allocate(
        self, depths: list[float], keys: list[bytes], sizes: np.ndarray, folder: Path | None
    ) -> list[float]:
        """Make room for the features; those for which there is none are left out."""
        dtype = np.dtype(self.cache.dtype)
        if self._model.backbone.dtype == torch.float64 and dtype == np.float32:
            dtype = np.dtype(np.float64)
        width = vector_size if math.isinf(depths[0]) else hidden_size
        shape = (int(sizes.sum()), width(self._model.backbone.config))
        n_bytes = max(1, shape[0] * shape[1] * dtype.itemsize)
        in_ram, on_disk = self.cache.max_ram_mb * _MB, self.cache.max_disk_mb * _MB
        made = []
        for depth in depths:
            path: str | None = None
            if n_bytes <= in_ram:
                in_ram -= n_bytes
                flat = np.empty(shape, dtype)
            else:
                try:
                    where = self._scratch_folder(folder)
                    too_much = n_bytes > min(on_disk, shutil.disk_usage(where).free)
                    if not too_much:
                        path = os.path.join(where, f"{uuid.uuid4().hex}.features")
                        _reserve(path, n_bytes)
                        flat = np.memmap(path, dtype, "r+", shape=shape)
                except OSError as error:
                    warnings.warn(
                        f"The frozen part of the backbone is computed in every epoch: what it "
                        f"gives could not be kept on disk: {error}",
                        stacklevel=2,
                    )
                    break
                if too_much:
                    self._say(
                        f"The frozen part of the backbone is computed in every epoch: keeping "
                        f"what it gives takes {n_bytes / _MB:.0f} MB, more than there is "
                        f"(memory={self.cache!r})."
                    )
                    continue
                on_disk -= n_bytes
            self._features[depth] = Features(keys, sizes, flat, path)
            made.append(depth)
        return made

    def _scratch_folder(self, folder: Path | None) -> str:
        if self._scratch is None:
            try:
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                self._scratch = tempfile.mkdtemp(prefix="frozen-", dir=folder)
            except OSError:  # the folder is for reading only, or none
                self._scratch = tempfile.mkdtemp(prefix="frozen-")
        return self._scratch

    # -------------------------------------------------------------- its name

    def _name(self, depth: float) -> str:
        """Fingerprint of all that decides the features but for the sequences."""
        model = self._model
        backbone = model.backbone
        config = {k: v for k, v in backbone.config.to_dict().items() if k not in _NAMES}
        stage: list[Any] = [depth]
        if math.isinf(depth):
            weights = below_pooler(backbone)
            stage += [type(model).__name__, model.unit, *_pooling(model)]
        else:
            above = self._places.blocks[int(depth) :]
            weights = set(backbone.parameters()) - {p for b in above for p in b.parameters()}
        about = [
            _FORMAT,
            torch.__version__,
            transformers.__version__,
            stage,
            repr(backbone),  # a loaded model may have other modules than its configuration says
            config,
            backbone.config._attn_implementation,
            str(self.autocast_dtype),
            str(self._features[depth].flat.dtype),
        ]
        digest = hashlib.blake2b(
            json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16
        )
        tensors = {name: p for name, p in backbone.named_parameters() if p in weights}
        tensors |= dict(backbone.named_buffers())
        for name, found in zip(tensors, store.digests(tensors.values())):
            digest.update(name.encode() + found)
        return digest.hexdigest()


class Space:
    """Files with features of one kind.

    Parameters
    ----------
    folder : Path
        Folder of all that is kept.
    name : str
        What tells these features from those of other weights and settings.
    max_mb : float
        Megabytes that the folder may take.
    """

    def __init__(self, folder: Path, name: str, max_mb: float):
        self.root = folder
        self.folder = folder / "features" / name
        self.max_mb = max_mb

    def read(self, features: Features, dtypes: Collection[torch.dtype]) -> np.ndarray:
        """Fill in what the files have; return the numbers of the sequences that are missing.

        dtypes are those that the model can have computed them in.
        """
        missing = set(range(len(features.numbers)))
        try:
            store.check_place(self.folder, self.root)
            paths = sorted(path for path in self.folder.glob("*") if _NAME.fullmatch(path.name))
        except OSError as error:
            warnings.warn(f"memory: nothing is read: {error}", stacklevel=2)
            paths = []
        for path in paths:
            if not missing:
                break
            if _may_hold(path, features.numbers, missing):
                missing -= self._read(path, features, missing, dtypes)
        return np.array(sorted(missing), np.int64)

    def _read(
        self,
        path: Path,
        features: Features,
        missing: set[int],
        dtypes: Collection[torch.dtype],
    ) -> set[int]:
        found = store.read(path)
        if found is None:
            return set()
        try:
            tensors, about = found
            dtype = next((x for x in dtypes if about == _about(x)), None)
            if dtype is None:
                raise ValueError("it is of another type than the model gives")
            keys, sizes, vectors = _parts_of(tensors, features.flat)
            numbers = [features.numbers.get(key, -1) for key in keys]
            theirs = np.array([i for i, n in enumerate(numbers) if n in missing], np.int64)
            ours = np.array([numbers[i] for i in theirs], np.int64)
            if len(set(keys)) < len(keys) or (sizes[theirs] != features.sizes[ours]).any():
                raise ValueError("it has another number of vectors than its sequences have")
        except (KeyError, TypeError, ValueError) as error:
            store.leave_out(path, ValueError(f"{error}"))
            return set()
        places = Ragged(np.empty(0), starts(sizes))
        features.flat[features.places.positions(ours)] = vectors[places.positions(theirs)]
        features.dtype = dtype
        return set(ours.tolist())

    def write(self, features: Features, keys: list[bytes], which: np.ndarray) -> bool:
        """Write the features of some sequences, for other trainings; False if that failed."""
        n_bytes = features.places.lengths[which] * features.flat[:1].nbytes
        parts = (np.cumsum(n_bytes) - n_bytes) // _MOST_A_FILE
        about = _about(features.dtype)
        for part in np.split(which, np.flatnonzero(np.diff(parts)) + 1):
            if len(part) == 0:
                continue
            tensors = {
                "keys": np.frombuffer(b"".join(keys[i] for i in part), np.uint8).reshape(-1, 16),
                "sizes": features.places.lengths[part],
                "vectors": np.asarray(features.flat[features.places.positions(part)]),
            }
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            try:
                n_bytes = sum(array.nbytes for array in tensors.values())
                if not np.isfinite(tensors["vectors"]).all():
                    continue  # nobody could tell it from a damaged file
                store.check_place(path.parent, self.root)
                if store.make_room(self.root, self.max_mb, n_bytes):
                    store.write(path, {k: torch.tensor(v) for k, v in tensors.items()}, about)
            except OSError as error:
                warnings.warn(f"memory does not keep features: {error}", stacklevel=2)
                return False
        return True


def _reserve(path: str, n_bytes: int) -> None:
    """Make a file of so many bytes."""
    try:
        with open(path, "wb") as file:
            file.truncate(n_bytes)
            if hasattr(os, "posix_fallocate"):  # a full disk would kill the process later
                os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _values(depth: Callable[[int], float], epochs: range) -> list[float]:
    """The values of a function that never rises, however many epochs there are."""
    found: list[float] = []
    begin = 0
    while begin < len(epochs):
        found.append(depth(epochs[begin]))
        begin = bisect_right(epochs, -found[-1], lo=begin, key=lambda epoch: -depth(epoch))
    return found


def _may_hold(path: Path, numbers: dict[bytes, int], missing: set[int]) -> bool:
    """Whether a file has something that is missing, or cannot be read."""
    try:
        keys = store.peek(path, "keys")
        return any(numbers.get(key) in missing for key in _split(keys))
    except FileNotFoundError:  # another process has just deleted it
        return False
    except (OSError, ValueError):
        return True


def _about(dtype: torch.dtype | None) -> dict[str, Any]:
    """What a file says about its vectors."""
    return {"dtype": str(dtype).removeprefix("torch.")}


def _parts_of(
    tensors: dict[str, Tensor], like: np.ndarray
) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Keys, sizes and vectors of a file, if they are what `Space.write` writes.

    Raises
    ------
    KeyError, ValueError
        If they are not.
    """
    keys = _split(tensors["keys"])
    sizes, vectors = (tensors[name].numpy() for name in ("sizes", "vectors"))
    if sizes.dtype != np.int64 or sizes.shape != (len(keys),):
        raise ValueError("its sizes are none")
    if vectors.dtype != like.dtype or vectors.shape != (len(vectors), like.shape[1]):
        raise ValueError("its vectors are of another shape or type")
    # Each by itself: a sum of large ones could come out right.
    if (sizes < 0).any() or (sizes > len(vectors)).any() or sizes.sum() != len(vectors):
        raise ValueError("its sizes are not those of its vectors")
    if not np.isfinite(vectors).all():
        raise ValueError("its vectors are no numbers")
    return keys, sizes, vectors


def _split(keys: Tensor) -> list[bytes]:
    """Keys of a file.

    Raises
    ------
    ValueError
        If they are none.
    """
    if keys.dtype != torch.uint8 or keys.ndim != 2 or keys.shape[1] != 16:
        raise ValueError("its keys are none")
    data = keys.numpy().tobytes()
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def _pooling(model: Any) -> list[Any]:
    config = model.config
    return [getattr(config, name, None) for name in ("pooling", "subword", "interaction")]


def _bare(encoded: Encoded) -> Encoded:
    """Sequences without their words."""
    return Encoded(encoded.sequences, encoded.windows, encoded.rows, encoded.second)


def _distinct(encoded: Encoded, with_words: bool) -> tuple[Encoded, list[bytes]]:
    """Each sequence once, as a row of its own, and its key."""
    numbers: dict[bytes, int] = {}
    for i, key in enumerate(_keys(encoded, np.arange(len(encoded.sequences)), with_words)):
        numbers.setdefault(key, i)
    which = np.fromiter(numbers.values(), np.int64, len(numbers))
    each = np.arange(len(which))
    words = encoded.words if with_words else None
    distinct = Encoded(
        encoded.sequences.take(which),
        np.arange(len(which) + 1),
        each[:, None],
        None if encoded.second is None else encoded.second[which],
        None if words is None else words.take(which),
    )
    return distinct, list(numbers)


def _keys(encoded: Encoded, which: np.ndarray, with_words: bool) -> list[bytes]:
    """Digests of sequences: of their token ids, their second text, and their words."""
    parts = [encoded.sequences]
    if with_words and encoded.words is not None:
        parts += [encoded.words.begin, encoded.words.end]
    head = [part.lengths[which] for part in parts]
    if encoded.second is not None:
        head.append(encoded.second[which])
    heads = np.stack([np.full(len(which), len(head)), *head], axis=1).astype(np.int32)
    digests = [hashlib.blake2b(row, digest_size=16) for row in heads]
    for part in parts:
        data: Any = np.ascontiguousarray(part.flat, np.int32).view(np.uint8)
        begin, end = 4 * part.start[which], 4 * part.start[which + 1]
        for digest, a, b in zip(digests, begin.tolist(), end.tolist()):
            digest.update(data[a:b])
    return [digest.digest() for digest in digests]

"""MNIST, Fashion-MNIST and scikit-learn's digits: the whole, verified data or a clear error."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vaelib.validation import kind_of

NAMES = ("mnist", "fashion-mnist", "digits")


class DataError(RuntimeError):
    """A data set could not be loaded; the message says why, what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes
    ----------
    images
        Grey values 0 to 255, uint8 ``[N, 28, 28]``.
    labels
        Class numbers, int64 ``[N]``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its official splits.

    Attributes
    ----------
    name
        One of :data:`NAMES`.
    train, test
        The official splits, whole.
    class_names
        What the labels 0, 1, ... stand for.
    n_validation
        How many images of ``train`` make the validation split.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    n_validation: int

    @cached_property
    def train_part(self) -> Split:
        """``train`` without the images of ``validation``."""
        return self._part(slice(self.n_validation, None))

    @cached_property
    def validation(self) -> Split:
        """Images held out of ``train``, always the same ones; choose recipes on them."""
        return self._part(slice(self.n_validation))

    def _part(self, indices: slice) -> Split:
        # NumPy keeps the stream of RandomState as it is for ever; torch promises no such thing.
        chosen = torch.from_numpy(np.random.RandomState(0).permutation(len(self.train))[indices])
        return Split(self.train.images[chosen], self.train.labels[chosen])


def load(name: str, *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Load a data set, downloading it on first use.

    Files are read where torchvision keeps them, ``<root>/MNIST/raw`` and
    ``<root>/FashionMNIST/raw``, raw or gzip'd. Their content is compared with the SHA-256 sums of
    the official files; the result is remembered beside them until a file changes. A download goes
    into a private folder and is moved into place when all of it has been verified.

    Parameters
    ----------
    name
        ``"mnist"`` (LeCun, Cortes and Burges), ``"fashion-mnist"`` (Xiao, Rasul and Vollgraf
        2017): 60,000 training images, of which 10,000 for validation, and 10,000 test images.
        ``"digits"``: 1,297 training images, of which 200 for validation, and 500 test images;
        they come with scikit-learn and need neither files nor network.
    root
        Data folder; by default the environment variable ``VAELIB_DATA_DIR``, else
        ``vaelib`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``).
    download
        Whether missing files may be downloaded (11 MB for MNIST, 31 MB for Fashion-MNIST).

    Returns
    -------
    Dataset
        Images uint8 ``[N, 28, 28]`` and labels int64 ``[N]``, on the CPU.

    Raises
    ------
    ValueError
        If the name is unknown.
    DataError
        If the files are missing and cannot be downloaded, if they are not the official ones, or
        if the folder cannot be read or written.

    Notes
    -----
    The digits are the test set of UCI's "Optical recognition of handwritten digits", written by
    13 people. Here their 8x8 pixels are enlarged to 20x20 (bilinear) in a black frame of 28x28,
    as MNIST's are. The last 500 images are the test split. Who wrote which image is not
    documented. The scikit-learn MOOC ("Sample grouping") takes them to be ordered by writer, and
    then a cut by position keeps the test writers out of the training split, but for one, whereas
    shuffling would put everybody on both sides.
    """
    if name == "digits":
        return _load_digits()
    if name not in _SOURCES:
        raise ValueError(f"Unknown data set {name!r}; expected one of {', '.join(NAMES)}.")
    source = _SOURCES[name]
    folder = data_root(root) / source.folder / "raw"
    try:
        missing = [file for file in source.files if not _path_of(folder, file).exists()]
        if missing and not download:
            raise _Fault(f"{missing[0].name} (or .gz) is not in {folder} and download is False.")
        if missing:
            _download(source, missing, folder)
        train_images, train_labels, test_images, test_labels = _read_arrays(source, folder)
    except (_Fault, OSError) as fault:
        raise DataError(
            f"{name} could not be loaded. {fault}\n"
            f"Expected: the four official files, raw or .gz, in {folder}, or a network and a "
            "writable folder with 55 MB free.\nVAELIB_DATA_DIR can name another data folder. "
            'load("digits"), the data of profile "quick", needs no download.'
        ) from fault
    return Dataset(
        name=name,
        train=Split(train_images, train_labels.long()),
        test=Split(test_images, test_labels.long()),
        class_names=source.class_names,
        n_validation=len(train_labels) // 6,
    )


def is_here(name: str, *, root: str | Path | None = None) -> bool:
    """Whether all files of a data set of :func:`load` are in its folder; their content may vary."""
    if name not in _SOURCES:
        return name == "digits"
    folder = data_root(root) / _SOURCES[name].folder / "raw"
    return all(_path_of(folder, file).exists() for file in _SOURCES[name].files)


def verify(name: str, *, root: str | Path | None = None) -> Path:
    """Compare the files of a data set with the official sums, remembered or not.

    Parameters
    ----------
    name, root
        As in :func:`load`, but not the digits, which have no files.

    Returns
    -------
    Path
        Their folder.

    Raises
    ------
    ValueError, DataError
        As in :func:`load`; nothing is downloaded.
    """
    if name not in _SOURCES:
        raise ValueError(f"{name!r} has no files; expected one of {', '.join(_SOURCES)}.")
    folder = data_root(root) / _SOURCES[name].folder / "raw"
    with suppress(OSError):
        (folder / _MARKER).unlink(missing_ok=True)
    load(name, root=root, download=False)
    return folder


def to_float(images: Tensor) -> Tensor:
    """Turn grey values uint8 ``[N, 28, 28]`` into float32 ``[N, 1, 28, 28]`` in [0, 1].

    Raises
    ------
    TypeError
        If the images are not a uint8 tensor.
    ValueError
        If their shape is not ``[N, 28, 28]``.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images are {kind_of(images)}; expected a torch.uint8 tensor [N, 28, 28].")
    if images.shape[1:] != (28, 28):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected [N, 28, 28].")
    return images.unsqueeze(1).float() / 255


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel as 0 or 1, with its grey value as the probability of a 1.

    One call for a whole data set gives static binarisation, a call per batch dynamic binarisation
    (Salakhutdinov and Murray 2008; Burda, Grosse and Salakhutdinov 2016).

    Parameters
    ----------
    images
        Floating point values in [0, 1], any shape.
    generator
        Random stream of the draws; by default the global one of torch.

    Returns
    -------
    Tensor
        Zeros and ones, of the shape and dtype of ``images``.

    Raises
    ------
    TypeError
        If the images are not a floating point tensor.
    ValueError
        If a value is NaN or outside [0, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(
            f"images are {kind_of(images)}; expected floating point values in [0, 1] "
            "(vaelib.data.to_float gives them)."
        )
    if not ((images >= 0) & (images <= 1)).all():
        low, high = images.aminmax()
        raise ValueError(f"images lie in [{low:g}, {high:g}]; expected values in [0, 1], no NaN.")
    return torch.bernoulli(images, generator=generator)


def balanced_subset(labels: Tensor, n: int, *, seed: int = 0) -> Tensor:
    """Choose ``n`` examples at random, equally many of each class.

    With the same seed a smaller subset is part of every larger one.

    Parameters
    ----------
    labels
        Class numbers, int64 ``[N]``.
    n
        Size of the subset, a multiple of the number of classes that occur in ``labels``.
    seed
        Fixes the choice.

    Returns
    -------
    Tensor
        Indices into ``labels``, int64 ``[n]``, in random order.

    Raises
    ------
    TypeError
        If the labels are not an int64 tensor.
    ValueError
        If the labels are not ``[N]``, if ``n`` is not a positive multiple of the number of
        classes, or if a class has too few examples.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels are {kind_of(labels)}; expected a torch.int64 tensor [N].")
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected [N], N at least 1.")
    classes, counts = labels.unique(return_counts=True)
    if not isinstance(n, int) or n < 1 or n % len(classes):
        raise ValueError(f"n is {n}; expected a positive multiple of the {len(classes)} classes.")
    per_class = n // len(classes)
    if counts.min() < per_class:
        rarest = counts.argmin()
        raise ValueError(
            f"n is {n}, {per_class} of each class, but class {classes[rarest]} has "
            f"only {counts[rarest]} examples."
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))
    order = order.to(labels.device)
    shuffled = labels[order]
    positions = torch.cat([(shuffled == c).nonzero().flatten()[:per_class] for c in classes])
    return order[positions.sort().values]


class _Fault(Exception):
    """Why data could not be had; `load` adds what was expected and what to do."""


class _IdxFile(NamedTuple):
    """An IDX file: a header with the shape, then the bytes of the array."""

    name: str
    shape: tuple[int, ...]
    sha256: str  # of the content, without compression


class _Source(NamedTuple):
    folder: str  # torchvision names it after its class
    class_names: tuple[str, ...]
    files: Sequence[_IdxFile]


def _idx_files(n_train: int, n_test: int, *sha256: str) -> list[_IdxFile]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    shapes = ((n_train, 28, 28), (n_train,), (n_test, 28, 28), (n_test,))
    return [_IdxFile(f"{n}-ubyte", *rest) for n, *rest in zip(names, shapes, sha256, strict=True)]


_DIGIT_NAMES = tuple("0123456789")
_CLOTHING_NAMES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"
_SOURCES = {
    "mnist": _Source(
        "MNIST",
        _DIGIT_NAMES,
        _idx_files(
            60_000,
            10_000,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": _Source(
        "FashionMNIST",
        tuple(name.replace("_", " ") for name in _CLOTHING_NAMES.split()),
        _idx_files(
            60_000,
            10_000,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}
_MARKER = ".verified.json"
_MAX_SILENCE_S = 10.0  # how long the mirrors of a data set, together, may send nothing


def data_root(root: str | Path | None = None) -> Path:
    """Return ``root``, else what VAELIB_DATA_DIR names, else the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vaelib")
    return Path(root or os.environ.get("VAELIB_DATA_DIR") or cache).expanduser()


def _path_of(folder: Path, file: _IdxFile) -> Path:
    """Return the raw file if it exists, else where the gzip'd one is or would be."""
    raw = folder / file.name
    return raw if raw.exists() else folder / f"{file.name}.gz"


def _read_arrays(source: _Source, folder: Path) -> list[Tensor]:
    """Read the arrays of a data set; verify them unless the very same files have been before."""
    paths = [_path_of(folder, file) for file in source.files]
    stats = [path.stat() for path in paths]
    stamps = {
        path.name: [stat.st_size, stat.st_mtime_ns, file.sha256]
        for path, stat, file in zip(paths, stats, source.files, strict=True)
    }
    marker = folder / _MARKER
    already_verified = _read_marker(marker) == stamps
    arrays = []
    for path, file in zip(paths, source.files, strict=True):
        try:
            content = _unpack(path.read_bytes(), file, str(path), verify=not already_verified)
        except _Fault as fault:
            raise _Fault(f"{fault}. Delete this file to have it downloaded.") from None
        header = len(_idx_header(file.shape))
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)
        arrays.append(values.view(file.shape))
    if not already_verified:
        # In a folder that cannot be written the data is verified each time.
        with suppress(OSError):
            marker.write_text(json.dumps(stamps))
    return arrays


def _read_marker(marker: Path) -> object:
    """Return what was verified in this folder before, or None."""
    try:
        return json.loads(marker.read_bytes())
    except (OSError, ValueError):
        return None


def _unpack(data: bytes, file: _IdxFile, origin: str, *, verify: bool = True) -> bytes:
    """Return the content of an IDX file without compression; `origin` is its path or URL."""
    if origin.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            reason = _describe_page(data) or f"is damaged or truncated: {error}"
            raise _Fault(f"{origin} {reason}") from None
    if verify and hashlib.sha256(data).hexdigest() != file.sha256:
        raise _Fault(f"{origin} {_describe_difference(data, file)}")
    return data


def _idx_header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def _describe_page(data: bytes) -> str | None:
    """Say that a server sent a web page in place of a file, if it did."""
    beginning = data.lstrip()[:15]
    if not beginning.startswith(b"<"):
        return None
    return f"is a web page, not data: it begins {beginning!r}"


def _describe_difference(data: bytes, file: _IdxFile) -> str:
    """Say in what the content of a file differs from the official one."""
    header = _idx_header(file.shape)
    size = len(header) + math.prod(file.shape)
    if page := _describe_page(data):
        return page
    if not data.startswith(header[:4]):
        return f"is not an IDX file of {len(file.shape)}-dimensional bytes: it begins {data[:4]!r}"
    if len(data) >= len(header) and not data.startswith(header):
        shape = struct.unpack_from(f">{len(file.shape)}I", data, 4)
        return f"holds an array of shape {shape}; expected {file.shape}"
    if len(data) != size:
        return f"has {len(data):,} bytes of content; expected {size:,}"
    return f"has wrong values: SHA-256 {hashlib.sha256(data).hexdigest()}; expected {file.sha256}"


def _download(source: _Source, files: Sequence[_IdxFile], folder: Path) -> None:
    """Download files, verify them, and move them into `folder` when all of them are good.

    pooch would do little of this: its check cannot say what came in place of a file, it unpacks
    where others may already read, its files are closed to other users, and it fails where a server
    calls an archive's own compression a transport encoding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mirrors, waiting, faults = _mirrors(source), list(files), []
    # A folder of its own, on the same file system: whoever else downloads now, whatever ends this
    # process, other readers see whole files only.
    with TemporaryDirectory(dir=folder, prefix="download-") as private:
        for mirror in mirrors:
            try:
                while waiting:
                    url = f"{mirror}{waiting[0].name}.gz"
                    content = _unpack(_fetch(url, _MAX_SILENCE_S / len(mirrors)), waiting[0], url)
                    Path(private, waiting.pop(0).name).write_bytes(content)
            except _Fault as fault:
                faults.append(f"\n  {fault}")
        if waiting:
            raise _Fault(f"{waiting[0].name} could not be downloaded:{''.join(faults)}")
        for file in files:
            os.replace(Path(private, file.name), folder / file.name)


def _mirrors(source: _Source) -> list[str]:
    from torchvision import datasets  # slow to import, and needed for a download only

    return getattr(datasets, source.folder).mirrors


def _fetch(url: str, max_silence: float) -> bytes:
    """Return what a server sends; give up when it sends nothing for `max_silence` seconds.

    torchvision's own download would wait for ever: it sets no timeout, and the only one that can
    be set from outside holds for all sockets of the process.
    """
    data = bytearray()
    try:
        with (
            _open_url(url, max_silence) as response,
            tqdm(desc=Path(url).name, total=response.length, unit="B", unit_scale=True) as bar,
        ):
            # The timeout holds for each wait for bytes: a slow server is not a silent one.
            while chunk := response.read(1 << 15):
                data += chunk
                bar.update(len(chunk))
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise _Fault(f"{url}: {error}") from None
    return bytes(data)


def _open_url(url: str, seconds: float) -> HTTPResponse:
    """Open a URL, or raise TimeoutError.

    The timeout of urlopen holds for each address of a host, and not at all for the search for
    its addresses; hence the thread.
    """
    request = Request(url, headers={"User-Agent": "vaelib"})
    response: Future[HTTPResponse] = Future()

    def open_here() -> None:
        try:
            response.set_result(urlopen(request, timeout=seconds))
        except BaseException as error:
            response.set_exception(error)

    thread = threading.Thread(target=open_here, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return response.result()


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    digits = load_digits()
    grey = torch.from_numpy(digits.images).unsqueeze(1)  # [1797, 1, 8, 8], 0 to 16
    # From 8 to 20 pixels bilinear weights are tenths, so values are hundredths. Made exact, they
    # are rounded to bytes in the same way on every machine.
    hundredths = F.interpolate(grey, size=(20, 20), mode="bilinear").mul(100).round()
    images = F.pad((hundredths * 255 / 1600).round(), (4, 4, 4, 4)).squeeze(1).to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    return Dataset(
        name="digits",
        train=Split(images[:-500], labels[:-500]),
        test=Split(images[-500:], labels[-500:]),
        class_names=_DIGIT_NAMES,
        n_validation=200,
    )

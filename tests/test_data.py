"""vaelib.data against arrays written here, torchvision, SciPy, and everything that can go wrong."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_server import PAGE, FaultyServer

from vaelib import data
from vaelib.data import DataError, balanced_subset, binarize, load, to_float

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes, written from its description by LeCun, Cortes and Burges."""
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


RNG = np.random.RandomState(1)
ARRAYS = {
    name: RNG.randint(0, 256 if "images" in name else 10, shape).astype(np.uint8)
    for name, shape in zip(FILES, [(60, 28, 28), (60,), (20, 28, 28), (20,)], strict=True)
}
CONTENT = {name: idx(array) for name, array in ARRAYS.items()}
OFFICIAL = [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
SUMS = [hashlib.sha256(CONTENT[name]).hexdigest() for name in FILES]


class Tiny:
    """A data set of 60 and 20 images with a server of its own."""

    def __init__(self, root: Path, server: FaultyServer) -> None:
        self.root, self.server, self.mirrors = root, server, [server.url]
        self.folder = root / "Tiny" / "raw"

    def load(self, **options) -> data.Dataset:
        return load("tiny", root=self.root, **options)

    def put(self, contents: dict[str, bytes] = CONTENT, packed: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if packed:
                (self.folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (self.folder / name).write_bytes(content)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    archives = {f"{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}
    with FaultyServer(archives) as server:
        tiny = Tiny(tmp_path, server)
        source = data._Source("Tiny", tuple("0123456789"), data._idx_files(60, 20, *SUMS))
        monkeypatch.setitem(data._SOURCES, "tiny", source)
        monkeypatch.setattr(data, "_mirrors", lambda source: tiny.mirrors)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield tiny


@pytest.fixture
def public_tiny(tiny):
    """The same in a folder that other users can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as root:
        tiny.root, tiny.folder = Path(root), Path(root, "Tiny", "raw")
        tiny.root.chmod(0o755)
        yield tiny


@contextmanager
def locked(path: Path, mode: int):
    """Change the mode of a file or folder, and be nobody instead of root, whom no mode stops."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs the file permissions of POSIX")
    user = os.geteuid()
    path.chmod(mode)
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(0o755)


def assert_right(dataset: data.Dataset) -> None:
    for split, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
        images, labels = (
            ARRAYS[f"{prefix}-images-idx3-ubyte"],
            ARRAYS[f"{prefix}-labels-idx1-ubyte"],
        )
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert np.array_equal(split.images.numpy(), images)
        assert np.array_equal(split.labels.numpy(), labels)
        assert len(split) == len(labels)


def assert_helpful(error: pytest.ExceptionInfo, *words: str) -> None:
    """The message names what went wrong, and every way out."""
    for word in (*words, "VAELIB_DATA_DIR", 'load("digits")', "quick"):
        assert word in str(error.value)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_reads_what_is_there_without_a_network(tiny, packed):
    tiny.put(packed=packed)
    dataset = tiny.load(download=False)
    assert_right(dataset)
    assert tiny.server.requests == []
    assert dataset.name == "tiny" and dataset.class_names == tuple("0123456789")
    dataset.train.images[0] = 0  # memory of its own, not the file's


def test_reads_a_mixture_of_raw_and_packed(tiny):
    tiny.put(dict(list(CONTENT.items())[:2]))
    tiny.put(dict(list(CONTENT.items())[2:]), packed=True)
    assert_right(tiny.load(download=False))


def test_data_root(tiny, monkeypatch, tmp_path):
    def root_is(folder: Path) -> None:
        with pytest.raises(DataError) as error:
            load("tiny", download=False)
        assert_helpful(error, f"{folder / 'Tiny' / 'raw'} and download is False", "train-images")

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("VAELIB_DATA_DIR", "")
    root_is(tmp_path / "home" / ".cache" / "vaelib")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root_is(tmp_path / "cache" / "vaelib")
    monkeypatch.setenv("VAELIB_DATA_DIR", "~/data")
    root_is(tmp_path / "home" / "data")
    tiny.put()
    assert_right(load("tiny", root=str(tiny.root)))


def test_verifies_once_and_remembers(tiny, monkeypatch):
    tiny.put()
    tiny.load()
    with monkeypatch.context() as patch:
        patch.setattr(data.hashlib, "sha256", None)
        assert_right(tiny.load())


@pytest.mark.parametrize("marker", [b"", b"[]", b"{", b"\xff", b"null", b'{"train": 1}'])
def test_a_strange_marker_is_not_believed(tiny, marker):
    tiny.put()
    (tiny.folder / data._MARKER).write_bytes(marker)
    assert_right(tiny.load())
    assert json.loads((tiny.folder / data._MARKER).read_bytes()).keys() == set(FILES)


def test_a_changed_file_is_verified_again(tiny):
    tiny.put()
    tiny.load()
    path = tiny.folder / FILES[2]
    stat = path.stat()
    path.write_bytes(CONTENT[FILES[2]][:-1] + bytes([CONTENT[FILES[2]][-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(DataError, match="wrong values"):
        tiny.load()


def test_other_sums_are_not_satisfied_by_an_old_verification(tiny, monkeypatch):
    tiny.put()
    tiny.load()
    other = data._idx_files(60, 20, *SUMS[:3], "0" * 64)
    monkeypatch.setitem(data._SOURCES, "tiny", data._SOURCES["tiny"]._replace(files=other))
    with pytest.raises(DataError, match="wrong values"):
        tiny.load()


def test_good_data_in_a_read_only_folder(public_tiny):
    public_tiny.put()
    with locked(public_tiny.folder, 0o555):
        assert_right(public_tiny.load())
    assert public_tiny.names() == sorted(FILES)


def test_validation_is_a_fixed_cut_of_train(tiny):
    tiny.put()
    dataset = tiny.load()
    order = np.random.RandomState(0).permutation(60)
    images, labels = ARRAYS[FILES[0]], ARRAYS[FILES[1]]
    assert np.array_equal(dataset.validation.images, images[order[:10]])
    assert np.array_equal(dataset.validation.labels, labels[order[:10]])
    assert np.array_equal(dataset.train_part.images, images[order[10:]])
    assert np.array_equal(dataset.train_part.labels, labels[order[10:]])
    assert dataset.validation is dataset.validation  # cut once


# --- bad files on disk ---------------------------------------------------------------------------

IMAGES = CONTENT[FILES[0]]
FLIPPED = IMAGES[:999] + bytes([IMAGES[999] ^ 1]) + IMAGES[1000:]
PACKED = gzip.compress(IMAGES, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (FILES[0], PAGE, ["is a web page", "<!DOCTYPE html>"]),
        (FILES[0], b"", ["is not an IDX file"]),
        (FILES[0], IMAGES[:7], ["has 7 bytes", "expected 47,056"]),
        (FILES[0], IMAGES[:-1], ["has 47,055 bytes", "expected 47,056"]),
        (FILES[0], IMAGES + b"\0", ["has 47,057 bytes", "expected 47,056"]),
        (FILES[0], FLIPPED, ["wrong values", SUMS[0], hashlib.sha256(FLIPPED).hexdigest()]),
        (FILES[0], PACKED, ["is not an IDX file"]),
        (FILES[0], CONTENT[FILES[1]], ["is not an IDX file of 3-dimensional"]),
        (FILES[0], CONTENT[FILES[2]], ["shape (20, 28, 28)", "expected (60, 28, 28)"]),
        (FILES[0], idx(ARRAYS[FILES[0]][:, ::2, ::2]), ["shape (60, 14, 14)"]),
        (FILES[1], idx(ARRAYS[FILES[1]][:59]), ["shape (59,)", "expected (60,)"]),
        (FILES[0] + ".gz", PAGE, ["is a web page", "<!DOCTYPE html>"]),
        (FILES[0] + ".gz", b"", ["is not an IDX file"]),
        (FILES[0] + ".gz", PACKED[:-9], ["is damaged or truncated"]),
        (FILES[0] + ".gz", PACKED[:5], ["is damaged or truncated"]),
        (FILES[0] + ".gz", PACKED[:999] + b"\xff" * 9 + PACKED[1008:], ["is damaged or truncated"]),
        (FILES[0] + ".gz", IMAGES, ["is damaged or truncated"]),
        (FILES[0] + ".gz", gzip.compress(FLIPPED, mtime=0), ["wrong values"]),
        (FILES[0] + ".gz", gzip.compress(PAGE, mtime=0), ["is a web page"]),
    ],
)
def test_a_bad_file_is_named_and_left_alone(tiny, name, content, words):
    tiny.put()
    (tiny.folder / name.removesuffix(".gz")).unlink()
    path = tiny.folder / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        tiny.load()
    assert_helpful(error, f"{path} ", "Delete this file", *words)
    assert path.read_bytes() == content
    assert tiny.server.requests == []
    path.unlink()
    assert_right(tiny.load())  # the advice works


def test_a_folder_in_place_of_a_file(tiny):
    tiny.put()
    (tiny.folder / FILES[0]).unlink()
    (tiny.folder / FILES[0]).mkdir()
    with pytest.raises(DataError) as error:
        tiny.load()
    assert_helpful(error, str(tiny.folder / FILES[0]))


def test_an_unreadable_file(public_tiny):
    public_tiny.put()
    with locked(public_tiny.folder / FILES[0], 0), pytest.raises(DataError) as error:
        public_tiny.load()
    assert_helpful(error, "Permission denied", FILES[0])


# --- download ------------------------------------------------------------------------------------


def test_download(tiny):
    assert_right(tiny.load())
    assert {name: (tiny.folder / name).read_bytes() for name in FILES} == CONTENT
    assert tiny.names() == sorted([*FILES, data._MARKER])
    assert tiny.server.requests == [f"{name}.gz" for name in FILES]
    assert_right(tiny.load())
    assert len(tiny.server.requests) == 4


def test_downloaded_files_are_as_open_as_others(tiny):
    """A data folder may be shared; temporary files are closed to other users."""
    tiny.load()
    (tiny.folder / "other").touch()
    assert len({path.stat().st_mode for path in tiny.folder.iterdir()}) == 1


def test_an_archive_declared_as_encoded(tiny):
    tiny.server.faults = dict.fromkeys(tiny.server.files, "encoded")
    assert_right(tiny.load())


def test_only_missing_files_are_downloaded(tiny):
    tiny.put({name: CONTENT[name] for name in FILES[:3]})
    assert_right(tiny.load())
    assert tiny.server.requests == [f"{FILES[3]}.gz"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (403, ["HTTP Error 403"]),
        (404, ["HTTP Error 404"]),
        (500, ["HTTP Error 500"]),
        ("closed", ["closed connection"]),
        ("babble", ["220 another protocol"]),
        ("page", ["is a web page", "<!DOCTYPE html>"]),
        ("cut", ["is damaged or truncated"]),
        ("short", ["is damaged or truncated"]),
        ("flipped", ["is damaged or truncated"]),
        ("silent", []),
        ("stalled", ["timed out"]),
        (gzip.compress(CONTENT[FILES[3]][:-1] + b"\x63", mtime=0), ["wrong values", SUMS[3]]),
        (gzip.compress(idx(ARRAYS[FILES[3]][:19]), mtime=0), ["shape (19,)", "expected (20,)"]),
    ],
)
def test_a_faulty_server_leaves_nothing_behind(tiny, monkeypatch, fault, words):
    archive = f"{FILES[3]}.gz"
    good = tiny.server.files[archive]
    if isinstance(fault, bytes):
        tiny.server.files[archive] = fault
    else:
        tiny.server.faults[archive] = fault
    if fault in ("silent", "stalled"):
        monkeypatch.setattr(data, "_MAX_SILENCE_S", 0.5)
    with pytest.raises(DataError) as error:
        tiny.load()
    assert_helpful(error, f"{FILES[3]} could not be downloaded", tiny.server.url + archive, *words)
    assert tiny.names() == []  # though three of the four files were good
    tiny.server.files[archive] = good
    tiny.server.faults.clear()
    assert_right(tiny.load())


def refusing_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_connection_refused(tiny):
    tiny.mirrors = [refusing_url(), refusing_url()]
    with pytest.raises(DataError) as error:
        tiny.load()
    assert_helpful(error, "Connection refused", *tiny.mirrors)


@pytest.mark.parametrize("fault", [404, "page", "silent", "stalled", "cut", "refused"])
def test_a_second_mirror_takes_over(tiny, monkeypatch, fault):
    with FaultyServer(dict(tiny.server.files)) as first:
        first.faults[f"{FILES[1]}.gz"] = fault
        tiny.mirrors = [refusing_url() if fault == "refused" else first.url, tiny.server.url]
        monkeypatch.setattr(data, "_MAX_SILENCE_S", 1.0)
        assert_right(tiny.load())
    start = 0 if fault == "refused" else 1
    assert tiny.server.requests == [f"{name}.gz" for name in FILES[start:]]


def test_a_host_that_never_accepts(tiny, monkeypatch):
    monkeypatch.setattr(data, "_MAX_SILENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tiny.mirrors = [f"http://127.0.0.1:{listener.getsockname()[1]}/"]
        with pytest.raises(DataError) as error:
            tiny.load()
    assert_helpful(error, tiny.mirrors[0])


def test_a_name_that_is_never_found(tiny, monkeypatch):
    """The search for an address knows no timeout."""
    monkeypatch.setattr(data, "_MAX_SILENCE_S", 0.2)
    over = threading.Event()

    def getaddrinfo(*_, **__):
        over.wait()
        raise socket.gaierror("not found")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(DataError) as error:
        tiny.load()
    over.set()
    assert_helpful(error, "no answer within 0.2 s")


def test_mirrors_share_the_time_of_silence(tiny, monkeypatch):
    timeouts = []

    def urlopen(request, timeout):
        timeouts.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(data, "urlopen", urlopen)
    tiny.mirrors = ["http://one/", "http://two/"]
    with pytest.raises(DataError):
        tiny.load()
    assert sum(timeouts) == data._MAX_SILENCE_S <= 12 and len(timeouts) == 2


def test_a_slow_server_is_not_a_silent_one(tiny, monkeypatch):
    """Fifteen pieces, 0.1 s apart, take longer than the 1 s that a server may be silent."""
    monkeypatch.setattr(data, "_MAX_SILENCE_S", 1.0)
    tiny.server.faults[f"{FILES[0]}.gz"] = "slow"
    assert_right(tiny.load())


@pytest.mark.parametrize(("name", "folder"), OFFICIAL)
def test_mirrors_files_and_classes_are_torchvisions(name, folder):
    from torchvision import datasets

    source, truth = data._SOURCES[name], getattr(datasets, folder)
    assert data._mirrors(source) == truth.mirrors
    assert [f"{file.name}.gz" for file in source.files] == [file for file, _ in truth.resources]
    assert list(source.class_names) == [c.split(" - ")[0] for c in truth.classes]


# --- folder and disk -----------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(public_tiny):
    with locked(public_tiny.root, 0o555), pytest.raises(DataError) as error:
        public_tiny.load()
    assert_helpful(error, "Permission denied", str(public_tiny.root))
    assert public_tiny.server.requests == []


def test_a_file_in_place_of_the_folder(tiny):
    (tiny.root / "Tiny").write_text("not a folder")
    with pytest.raises(DataError) as error:
        tiny.load()
    assert_helpful(error, str(tiny.folder))
    assert (tiny.root / "Tiny").read_text() == "not a folder"


def test_disk_full(tiny, monkeypatch):
    write_bytes = Path.write_bytes

    def write_half(path: Path, content: bytes) -> None:
        if path.name != FILES[2]:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(DataError) as error:
            tiny.load()
    assert_helpful(error, "No space left on device", "55 MB")
    assert tiny.names() == []
    assert_right(tiny.load())


def test_file_size_limit(tiny):
    """A limit that the operating system sets, hit in the middle of a file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DataError) as error:
            tiny.load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_helpful(error, "File too large")
    assert tiny.names() == []
    assert_right(tiny.load())


def test_a_marker_that_cannot_be_written_is_no_fault(tiny):
    tiny.put()
    (tiny.folder / data._MARKER).mkdir()
    assert_right(tiny.load())


# --- processes -----------------------------------------------------------------------------------

SCRIPT = """
import hashlib, json, sys
from vaelib import data
root, url, sums = json.loads(sys.argv[1])
data._SOURCES["tiny"] = data._Source("Tiny", (), data._idx_files(60, 20, *sums))
data._mirrors = lambda source: [url]
dataset = data.load("tiny", root=root)
for split in (dataset.train, dataset.test):
    for tensor in (split.images, split.labels.byte()):
        print(hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""


def start(tiny: Tiny, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[1])}
    environment.pop("TQDM_DISABLE", None)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps([str(tiny.root), tiny.server.url, SUMS])],
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_after_one_that_was_killed(tiny):
    tiny.server.faults[f"{FILES[3]}.gz"] = "stalled"
    with start(tiny) as killed:
        assert tiny.server.waiting.wait(60)
        killed.kill()
    (left,) = tiny.names()
    assert left.startswith("download-")  # on the file system of the data, for an atomic move

    # Neither is answered before both have found the files missing.
    tiny.server.faults = {f"{FILES[0]}.gz": "met"}
    with start(tiny) as one, start(tiny, TQDM_DISABLE="1") as two:
        (digests, bar), (same_digests, no_bar) = one.communicate(), two.communicate()
    assert (one.returncode, two.returncode) == (0, 0), bar + no_bar
    assert digests.split() == [hashlib.sha256(a.tobytes()).hexdigest() for a in ARRAYS.values()]
    assert digests == same_digests
    assert len(tiny.server.requests) == 4 + 8
    assert "train-images" in bar and no_bar == ""
    assert_right(tiny.load(download=False))


# --- the real data -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), OFFICIAL)
def test_official_data_is_torchvisions(name, folder):
    root = data.data_root(None)
    if not all((root / folder / "raw" / file).exists() for file in FILES):
        pytest.skip(f"{folder} is not in {root} (set VAELIB_DATA_DIR)")
    from torchvision import datasets

    dataset = load(name, download=False)
    for split, train, n in ((dataset.train, True, 60_000), (dataset.test, False, 10_000)):
        truth = getattr(datasets, folder)(root, train=train, download=False)
        assert split.images.shape == (n, 28, 28) and split.labels.shape == (n,)
        assert torch.equal(split.images, truth.data) and torch.equal(split.labels, truth.targets)
    assert (len(dataset.train_part), len(dataset.validation)) == (50_000, 10_000)


# --- digits --------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_enlarged_by_scipy():
    from scipy.ndimage import map_coordinates
    from sklearn.datasets import load_digits

    dataset, bunch = load("digits", root="/nowhere", download=False), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert (len(dataset.train_part), len(dataset.validation)) == (1097, 200)
    images = torch.cat([dataset.train.images, dataset.test.images])
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    assert images.dtype == torch.uint8 and images.shape == (1797, 28, 28)
    assert labels.dtype == torch.int64 and np.array_equal(labels, bunch.target)

    centres = (np.arange(20) + 0.5) * 8 / 20 - 0.5
    grid = np.meshgrid(np.arange(1797), centres, centres, indexing="ij")
    grey = map_coordinates(bunch.images, grid, order=1, mode="nearest") * 255 / 16
    assert np.abs(images[:, 4:24, 4:24].numpy() - grey).max() <= 0.5 + 1e-9
    frame = images.clone()
    frame[:, 4:24, 4:24] = 0
    assert not frame.any() and images.max() == 255


def test_digits_are_the_same_on_every_machine():
    images = load("digits").train.images.numpy()
    assert hashlib.sha256(images.tobytes()).hexdigest() == (
        "1f51cba6f993053a272c31ca5c1e20fc2737d3b110b0c2b705aae7060937f8cf"
    )


# --- names, conversions and subsets --------------------------------------------------------------


@pytest.mark.parametrize("name", ["MNIST", "cifar", "", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="mnist, fashion-mnist, digits") as error:
        load(name)
    assert repr(name) in str(error.value)


def test_known_names():
    assert set(data.NAMES) == {*data._SOURCES, "digits"}


def test_to_float():
    images = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].view(1, 28, 28)
    x = to_float(images)
    assert x.shape == (1, 1, 28, 28) and x.dtype == torch.float32
    truth = images.numpy().astype(np.float64)[:, None] / 255
    np.testing.assert_allclose(x.numpy(), truth, rtol=1e-6)
    assert x.min() == 0 and x.max() == 1


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(2, 28, 28), TypeError, "torch.float32"),
        (np.zeros((2, 28, 28), np.uint8), TypeError, "a ndarray"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), ValueError, r"\(2, 1, 28, 28\)"),
        (torch.zeros(2, 784, dtype=torch.uint8), ValueError, r"\(2, 784\)"),
        (torch.zeros(28, 28, dtype=torch.uint8), ValueError, r"\(28, 28\)"),
        (torch.tensor(0, dtype=torch.uint8), ValueError, r"\(\)"),
    ],
)
def test_to_float_refuses(images, error, words):
    with pytest.raises(error, match=f"{words}.*expected"):
        to_float(images)


def test_binarize_draws_with_the_grey_value_as_probability():
    grey = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    draws = binarize(grey.expand(40_000, 5), generator=torch.Generator().manual_seed(0))
    assert draws.dtype == grey.dtype and set(draws.unique().tolist()) == {0.0, 1.0}
    error = (draws.mean(0) - grey).abs()
    assert (error <= 5 * (grey * (1 - grey) / 40_000).sqrt()).all()  # exact at 0 and 1


def test_binarize_depends_on_its_generator_only():
    grey = torch.full((3, 1, 28, 28), 0.5)
    generator = torch.Generator().manual_seed(0)
    first, second = binarize(grey, generator=generator), binarize(grey, generator=generator)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    assert torch.equal(binarize(grey, generator=generator.manual_seed(0)), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(2, 28, 28, dtype=torch.uint8), TypeError, "torch.uint8"),
        ([0.5], TypeError, "a list"),
        (torch.tensor([0.0, 1.5]), ValueError, r"\[0, 1.5\]"),
        (torch.tensor([-0.25, 1.0]), ValueError, r"\[-0.25, 1\]"),
        (torch.tensor([0.5, float("nan")]), ValueError, "nan"),
    ],
)
def test_binarize_refuses(images, error, words):
    with pytest.raises(error, match=words):
        binarize(images)


LABELS = torch.from_numpy(np.random.RandomState(3).permutation(np.repeat(np.arange(5), 40)))


def test_balanced_subset():
    chosen = balanced_subset(LABELS, 50)
    assert chosen.dtype == torch.int64 and len(chosen.unique()) == 50
    assert np.array_equal(np.bincount(LABELS[chosen]), [10] * 5)
    assert torch.equal(chosen, balanced_subset(LABELS, 50, seed=0))
    assert set(chosen.tolist()) != set(balanced_subset(LABELS, 50, seed=1).tolist())
    assert set(balanced_subset(LABELS, 10).tolist()) < set(chosen.tolist())
    assert sorted(balanced_subset(LABELS, 200).tolist()) == list(range(200))
    assert len(LABELS[chosen[:10]].unique()) > 1  # not sorted by class


def test_balanced_subset_gives_every_example_the_same_chance():
    draws = 2000
    counts = torch.stack(
        [torch.bincount(balanced_subset(LABELS, 50, seed=s), minlength=200) for s in range(draws)]
    ).sum(0)
    expected, sd = draws / 4, (draws * 3 / 16) ** 0.5
    assert (counts - expected).abs().max() < 5 * sd


@pytest.mark.parametrize(
    ("labels", "n", "error", "words"),
    [
        (LABELS, 51, ValueError, "n is 51; expected a positive multiple of the 5 classes"),
        (LABELS, 0, ValueError, "n is 0"),
        (LABELS, -5, ValueError, "n is -5"),
        (LABELS, 10.0, ValueError, "n is 10.0"),
        (LABELS, 205, ValueError, "41 of each class, but class 0 has only 40"),
        (LABELS[1:], 200, ValueError, f"class {LABELS[0]} has only 39"),
        (LABELS.float(), 10, TypeError, "torch.float32"),
        (LABELS.numpy(), 10, TypeError, "a ndarray"),
        (LABELS[:, None], 10, ValueError, r"\(200, 1\)"),
        (LABELS[:0], 10, ValueError, r"\(0,\)"),
    ],
)
def test_balanced_subset_refuses(labels, n, error, words):
    with pytest.raises(error, match=words):
        balanced_subset(labels, n)

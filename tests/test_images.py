import io
import os
import pickle
import random
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SMALL

from vaelib import runs
from vaelib.data import DataError
from vaelib.images import load_images, to_grey


def save(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def five_hundred(tmp_path_factory):
    """A folder of 500 PNG files of mixed sizes: one broken, one of 0 bytes, one with alpha."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for i in range(500):
        height, width = rng.integers(1, 80, 2)
        channels = [(), (3,)][i % 2]
        image = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
        save(image, folder / f"{i:03d}.png")
    whole = (folder / "100.png").read_bytes()
    (folder / "100.png").write_bytes(whole[: len(whole) // 2])
    (folder / "200.png").write_bytes(b"")
    save(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8), folder / "300.png")
    (folder / "README.txt").write_text("no image")
    return folder


def test_a_folder_with_broken_files_is_refused_and_they_are_named(five_hundred):
    with pytest.raises(DataError) as error:
        load_images(five_hundred)
    message = str(error.value)
    assert "2 of 500 files" in message and "--skip-broken" in message
    assert "100.png: " in message and "200.png: has 0 bytes" in message
    assert "300.png" not in message and "README" not in message


def test_the_rest_is_trained_on_when_it_is_asked_for(five_hundred, tmp_path):
    config = replace(SMALL, data=str(five_hundred), skip_broken=True, epochs=1)
    images = runs.images_of(config)
    assert [line.split(":")[0] for line in images.skipped] == ["100.png", "200.png"]
    assert len(images.train) + len(images.test) == 498 and len(images.test) == 49
    assert images.train_labels is None and images.test_labels is None
    history = runs.train(config, tmp_path / "run", images=images, progress=False)
    assert history.images_seen == 449
    again = runs.images_of(config)
    assert torch.equal(images.test, again.test)


def test_images_are_read_in_the_order_of_their_names_and_from_folders_in_the_folder(tmp_path):
    (tmp_path / "b").mkdir()
    for value, name in ((10, "b/1.png"), (20, "a.png"), (30, "c.PNG")):
        save(np.full((28, 28), value, np.uint8), tmp_path / name)
    assert load_images(tmp_path).images[:, 0, 0].tolist() == [20, 10, 30]


# The conversion


def test_a_grey_image_of_the_right_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert np.array_equal(np.asarray(to_grey(Image.fromarray(image))), image)


def test_colours_become_grey_by_their_luma():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    grey = np.asarray(to_grey(Image.fromarray(image)))
    assert np.abs(grey - image @ [0.299, 0.587, 0.114]).max() <= 1


def test_what_is_transparent_becomes_black():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 2), dtype=np.uint8)
    grey = np.asarray(to_grey(Image.fromarray(image)))
    value, alpha = image[..., 0].astype(float), image[..., 1] / 255
    assert np.abs(grey - value * alpha).max() <= 1


@pytest.mark.parametrize("size", [(56, 28), (28, 56), (112, 56)])
def test_an_image_that_is_not_square_is_framed_in_black(size):
    white = np.full(size, 255, np.uint8)
    grey = np.asarray(to_grey(Image.fromarray(white)))
    tall = grey if size[0] > size[1] else grey.T
    assert (tall[:, 7:21] == 255).all()
    assert (tall[:, :7] == 0).all() and (tall[:, 21:] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (1000, 999)])
def test_odd_sizes_are_brought_to_28(size):
    assert to_grey(Image.new("L", size, 200)).size == (28, 28)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "HSV", "PA"])
def test_every_mode_of_8_bits_is_read(mode):
    image = Image.new("RGB", (28, 28), (255, 255, 255))
    for step in (mode[0], mode) if mode in ("LA", "PA") else (mode,):
        image = image.convert(step)
    assert np.asarray(to_grey(image)).min() >= 254


def test_an_image_of_16_bits_is_refused_rather_than_cut(tmp_path):
    for name in "ab":
        save(np.full((28, 28), 30_000, np.uint16), tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=r"a\.png: has 16 bits or more a pixel"):
        load_images(tmp_path)


# What is no image


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 100,
        b"<html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n",  # Pillow would start a program
        png(2**31 - 1, 2**31 - 1),
        png(12_000, 12_000),
        png(28, 28)[:40],
        pickle.dumps([1, 2]),
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    for name in ("good", "fine"):
        save(np.zeros((28, 28), np.uint8), tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 3 files.*\n  bad\.png: \w+"):
        load_images(tmp_path)
    own = load_images(tmp_path, skip_broken=True)
    assert len(own.images) == 2 and len(own.skipped) == 1


def test_mutated_images_are_read_or_named(tmp_path):
    rng = random.Random(0)
    kinds = ("png", "jpg", "gif", "bmp", "webp", "tif")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for i in range(120):
        buffer = io.BytesIO()
        file = tmp_path / f"{i:03d}.{kinds[i % 6]}"
        image.save(buffer, Image.registered_extensions()[file.suffix])
        content = bytearray(buffer.getvalue())
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(min(200, len(content)))] ^= 1 << rng.randrange(8)
        file.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    own = load_images(tmp_path, skip_broken=True)
    assert len(own.images) + len(own.skipped) == 120
    assert own.skipped


@pytest.mark.parametrize("names", [[], ["a.png"]])
def test_fewer_than_two_images_are_refused(tmp_path, names):
    for name in names:
        save(np.zeros((28, 28), np.uint8), tmp_path / name)
    with pytest.raises(DataError, match=r"holds no image files|has 1 images that can be read"):
        load_images(tmp_path)


# Arrays


def test_an_npz_file_has_images_of_any_size_and_labels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=x, labels=np.arange(20, dtype=np.int16))
    own = load_images(tmp_path / "a.npz")
    assert np.array_equal(own.images.numpy(), x) and own.labels.tolist() == list(range(20))
    np.savez(tmp_path / "b.npz", images=x[:, :14])
    own = load_images(tmp_path / "b.npz")
    assert own.images.shape == (20, 28, 28) and own.labels is None
    assert (own.images[:, :7] == 0).all()
    images = runs.images_of(replace(SMALL, data=str(tmp_path / "a.npz")))
    everything = torch.cat((images.train, images.test)).mul(255).round().byte()[:, 0]
    labels = torch.cat((images.train_labels, images.test_labels))
    assert labels.sort().values.tolist() == list(range(20))
    assert np.array_equal(everything[labels.argsort()].numpy(), x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 28, 28), np.uint8)}, "has nothing as its images"),
        ({"images": np.zeros((3, 28, 28))}, r"has float64 \[3, 28, 28\] as its images; expected u"),
        ({"images": np.zeros((3, 784), np.uint8)}, r"has uint8 \[3, 784\] as its images"),
        ({"images": np.zeros((3, 0, 4), np.uint8)}, r"has uint8 \[3, 0, 4\] as its images"),
        ({"images": np.zeros((1, 28, 28), np.uint8)}, "has 1 images"),
        (
            {"images": np.zeros((3, 28, 28), np.uint8), "labels": np.zeros(2, int)},
            r"has int64 \[2\] as its labels; expected whole numbers \[3\]",
        ),
        (
            {"images": np.zeros((3, 28, 28), np.uint8), "labels": np.zeros(3)},
            r"has float64 \[3\] as its labels",
        ),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "a.npz")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_an_array_of_objects_is_refused_and_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([Bomb(tmp_path / "executed")] * 3, dtype=object))
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        load_images(tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


def test_a_header_that_announces_too_much_is_refused_before_memory_is_taken(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 28, 28)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + b"\0" * 1000)
    with pytest.raises(DataError, match=r"announces an array of 862,017,116,176,384 bytes"):
        load_images(tmp_path / "a.npz")


def test_mutated_archives_are_read_or_refused(tmp_path):
    rng, file = random.Random(0), tmp_path / "a.npz"
    x = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    np.savez_compressed(file, images=x, labels=np.arange(6))
    whole = file.read_bytes()
    for _ in range(100):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            own = load_images(file)
        except DataError as error:
            assert "a.npz" in str(error)
        else:
            assert np.array_equal(own.images.numpy(), x)

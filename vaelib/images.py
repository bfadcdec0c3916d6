"""Images of one's own: a folder of files, or an array in an .npz file, brought to grey 28x28.

Colours become grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B). What is transparent becomes
black, as the background of MNIST is. An image that is not square is framed in black, then it is
resized (bicubic) to 28x28.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vaelib.data import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
MAX_BYTES = 2**30
"""Size of the largest array that is read."""


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Images that were read, and those that were not.

    Attributes
    ----------
    images
        Grey values 0 to 255, uint8 ``[N, 28, 28]``.
    labels
        Class numbers, int64 ``[N]``, if the file has them.
    skipped
        One line for each file that could not be read: its name and why.
    """

    images: Tensor
    labels: Tensor | None = None
    skipped: Sequence[str] = ()


def load_images(path: str | Path, *, skip_broken: bool = False) -> OwnImages:
    """Read images of one's own.

    Parameters
    ----------
    path
        A folder, whose image files are read with those of the folders in it, in the order of
        their names; other files are passed over. Or an ``.npz`` file: its array ``images`` is
        uint8 ``[N, H, W]``, its array ``labels``, if there is one, has N whole numbers.
    skip_broken
        Whether to leave out the files of a folder that cannot be read, and name them, instead of
        refusing the folder.

    Raises
    ------
    DataError
        If there is nothing at the path, fewer than two images can be read, or some cannot and are
        not to be skipped.
    """
    path = Path(path)
    if path.is_dir():
        own = _load_folder(path, skip_broken)
    elif path.suffix == ".npz" and path.is_file():
        own = _load_npz(path)
    else:
        raise DataError(
            f"{path} is neither a folder of images nor an .npz file, nor the name of a data set. "
            "Expected one of these: mnist, fashion-mnist, digits, or a path."
        )
    if len(own.images) < 2:
        raise DataError(f"{path} has {len(own.images)} images that can be read; expected two.")
    return own


def to_grey(image: Image.Image) -> Image.Image:
    """Bring an image to grey 28x28, as the module says.

    Raises
    ------
    ValueError
        If it has more than 8 bits for each channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"has 16 bits or more a pixel (mode {image.mode}); expected 8")
    colours = image.convert("RGBA")
    black = Image.new("RGBA", colours.size, (0, 0, 0, 255))
    grey = Image.alpha_composite(black, colours).convert("L")
    return ImageOps.pad(grey, (28, 28), method=Image.Resampling.BICUBIC, color=0)


def _load_folder(folder: Path, skip_broken: bool) -> OwnImages:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
    if not files:
        raise DataError(f"{folder} holds no image files; expected some of {', '.join(ENDINGS)}.")
    images, skipped = [], []
    for file in files:
        try:
            images.append(_read_file(file))
        except Exception as error:  # a decoder raises what it likes at damaged bytes
            reason = "has 0 bytes" if not file.stat().st_size else _first_line(error)
            skipped.append(f"{file.relative_to(folder)}: {reason}")
    if skipped and not skip_broken:
        shown = "\n  ".join(skipped[:20] + [f"and {len(skipped) - 20} more"] * (len(skipped) > 20))
        raise DataError(
            f"{len(skipped)} of {len(files)} files in {folder} cannot be read:\n  {shown}\n"
            "Mend or remove them, or train on the rest: --skip-broken."
        )
    return OwnImages(_stack(images), skipped=skipped)


def _read_file(file: Path) -> Image.Image:
    with warnings.catch_warnings():
        # A small file can announce an image that fills the memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of what is odd beside the pixels
        # Only these: some of Pillow's other formats start programs.
        with Image.open(file, formats=FORMATS) as image:
            return to_grey(image)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _load_npz(path: Path) -> OwnImages:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                name: _read_array(archive, f"{name}.npy", path)
                for name in ("images", "labels")
                if f"{name}.npy" in archive.namelist()
            }
    except Exception as error:  # as many kinds of it as there are ways to damage an archive
        raise DataError(f"{path} cannot be read: {_first_line(error)}.") from None
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape[1:]:
        found = "nothing" if images is None else f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{path} has {found} as its images; expected uint8 [N, H, W].")
    if labels is not None:
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise DataError(
                f"{path} has {labels.dtype} {list(labels.shape)} as its labels; expected "
                f"whole numbers [{len(images)}], one for each image."
            )
        labels = torch.from_numpy(labels.astype(np.int64))
    return OwnImages(_stack([to_grey(Image.fromarray(image)) for image in images]), labels)


def _read_array(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """Read an array of an archive, after a look at the size that it announces."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{name} is an array of version {version}")
        shape, _, dtype = read_header(member)
    announced, there = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size
    if announced > there or there > MAX_BYTES:
        raise ValueError(
            f"{name} announces an array of {announced:,} bytes in a file of {there:,}; expected "
            f"at most {MAX_BYTES:,}, and no more than there are"
        )
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _stack(images: Sequence[Image.Image]) -> Tensor:
    if not images:
        return torch.empty(0, 28, 28, dtype=torch.uint8)
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))

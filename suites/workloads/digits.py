"""Handwritten digits for the workloads that learn from images: scikit-learn's small set, or MNIST from a folder.

`load(None)` needs no download; `load(folder)` reads MNIST's own four files; `read_idx(path)` reads any IDX file.
Either way one gets a `Digits`: normalised images of 28x28 pixels and their labels, read-only, and batches of them.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]

SHIPPED = ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")
"""A distribution and its file of digits, a row of 64 pixels and a label each. Read as a file: to import scikit-learn
would take each worker as long as to import torch."""

SIDE = 28
CLASSES = 10
TEST_EVERY = 5

# The IDX type codes; every number of more than one byte is stored with its highest byte first.
IDX_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
# IDX has room for 255 dimensions, a NumPy array for 64.
MOST_DIMENSIONS = 64
GZIP_MAGIC = b"\x1f\x8b"


class DataError(Exception):
    """Data that cannot be used; its one message says what is wrong, what was found, what was expected, and where."""


def _fault(what: str, found: object, expected: object, where: object) -> DataError:
    return DataError(f"{what}: found {found}, expected {expected}, in {where}")


@dataclass(frozen=True, eq=False)  # `==` of arrays has no single truth value, so a set of digits equals only itself
class Digits:
    """Digits for training and for testing, with batches of the training part.

    Images are float32 (n, 1, 28, 28), normalised by the mean and standard deviation of the training images; labels
    are int64 (n,) from 0 to 9. `source` says where they come from. The loaders of this module return read-only arrays.
    """

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]
    source: str

    def sample(self, rng: np.random.Generator, batch_size: int) -> dict[str, Array]:
        """Draw one batch of training digits: no digit twice, unless batch_size is larger than their number.

        Returns new arrays "image", float32 (batch_size, 1, 28, 28), and "label", int64 (batch_size,).
        Raises DataError if batch_size < 1.
        """
        count = len(self.train_labels)
        if batch_size < 1:
            raise _fault("wrong batch size", batch_size, "at least 1", self.source)
        return self._batch(rng.choice(count, batch_size, replace=batch_size > count))

    def epoch(self, rng: np.random.Generator, batch_size: int) -> Iterator[dict[str, Array]]:
        """Yield the training digits in a new random order, in full batches; the last, partial batch is dropped.

        A batch is as in `sample`. The order is drawn at the call, not at the first batch.
        Raises DataError, at the call, if batch_size < 1 or larger than the number of training digits.
        """
        count = len(self.train_labels)
        if not 1 <= batch_size <= count:
            raise _fault("wrong batch size", batch_size, f"1 to {count}, the number of training digits", self.source)
        order = rng.permutation(count)
        return (self._batch(order[at : at + batch_size]) for at in range(0, count - batch_size + 1, batch_size))

    def validation(self) -> Digits:
        """The training digits alone, every fifth of each held out for testing: to choose by without seeing the test."""
        held = every_fifth(self.train_labels)
        images, labels = self.train_images, self.train_labels
        source = f"{self.source}, training part, a fifth of it held out"
        return Digits(images[~held], labels[~held], images[held], labels[held], source)

    def _batch(self, chosen: npt.NDArray[np.int64]) -> dict[str, Array]:
        return {"image": self.train_images[chosen], "label": self.train_labels[chosen]}


def load(folder: Path | None) -> Digits:
    """Return MNIST from `folder`, or scikit-learn's digits if there is no folder. Raises DataError as `mnist` does."""
    return sklearn_digits() if folder is None else mnist(folder)


@cache
def sklearn_digits() -> Digits:
    """Return the 1797 digits of 8x8 pixels that scikit-learn ships, enlarged to 28x28: 1442 to train, 355 to test.

    Every fifth image of each digit, in the order of the file, is for testing: stratified, and the same everywhere, as
    no random generator takes part. The file does not say who wrote what, so the two parts share writers, and test
    accuracy says nothing about unknown writers.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49.
    """
    distribution, name = SHIPPED
    rows = np.loadtxt(str(metadata.distribution(distribution).locate_file(name)), delimiter=",")
    images, labels = enlarge(rows[:, :-1].reshape(-1, 8, 8)), rows[:, -1].astype(np.int64)
    is_test = every_fifth(labels)
    train, test = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
    return _normalised(train, test, 16.0, "scikit-learn's digits, enlarged from 8x8 to 28x28")


def every_fifth(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the labels (n,) are every fifth of their digit: a stratified choice, the same everywhere."""
    chosen = np.zeros(len(labels), dtype=bool)
    for digit in range(CLASSES):
        chosen[np.flatnonzero(labels == digit)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return chosen


def enlarge(images: Array) -> Array:
    """Resize images (n, height, width) by bilinear interpolation to (n, 28, 28), in their own float dtype.

    A pixel is taken as an area, so that the images keep their borders; with pixels taken as points the outer half of
    the border pixels would be cut off.
    """
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )
    enlarged: Array = wide[:, 0].numpy()
    return enlarged


def mnist(folder: Path) -> Digits:
    """Read MNIST from its four IDX files in `folder`.

    The names are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte;
    a dot may stand before idx, and .gz at the end. Where several are there, the plain file goes before the gzip.
    Raises DataError if a file is missing or broken, if images are not unsigned bytes of 28x28 or all of one grey, if
    there are not as many labels as images, or if a label is not from 0 to 9.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits,
    http://yann.lecun.com/exdb/mnist/.
    """
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise _fault("no MNIST folder", error.strerror, "a folder that can be read", folder) from None
    train, test = (_read_part(folder, present, part) for part in ("train", "t10k"))
    return _normalised(train, test, 255.0, f"MNIST in {folder}")


def _read_part(folder: Path, present: set[str], part: str) -> tuple[Array, Array]:
    """Return the images, uint8 (n, 28, 28), and the labels, uint8 (n,), of one part of MNIST."""
    image_path = _find(folder, present, f"{part}-images", 3)
    label_path = _find(folder, present, f"{part}-labels", 1)
    images, labels = _read_bytes_of_rank(image_path, 3), _read_bytes_of_rank(label_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        sizes = "x".join(map(str, images.shape[1:]))
        raise _fault("wrong image size", sizes, f"{SIDE}x{SIDE}", _at(image_path, 8))
    if len(images) != len(labels):
        raise _fault("wrong number of labels", len(labels), f"{len(images)} as in {image_path}", _at(label_path, 4))
    wrong = np.flatnonzero(labels >= CLASSES)
    if len(wrong):
        first = int(wrong[0])
        raise _fault(f"wrong label of image {first}", labels[first], f"0 to {CLASSES - 1}", _at(label_path, 8 + first))
    return images, labels


def _find(folder: Path, present: set[str], what: str, rank: int) -> Path:
    names = [f"{what}{mark}idx{rank}-ubyte{end}" for end in ("", ".gz") for mark in "-."]
    for name in names:
        if name in present:
            return folder / name
    raise _fault(f"no file of MNIST's {what}", "none of these names", " or ".join(names), folder)


def _read_bytes_of_rank(path: Path, rank: int) -> Array:
    array = read_idx(path)
    if array.dtype != np.uint8:
        raise _fault("wrong type of data", array.dtype, "unsigned bytes (type code 0x08)", _at(path, 2))
    if array.ndim != rank:
        raise _fault("wrong number of dimensions", array.ndim, rank, _at(path, 3))
    return array


def read_idx(path: Path) -> Array:
    """Read an IDX file, plain or (if its name ends in .gz) compressed, into a new array of the machine's byte order.

    The format: two zero bytes; a type code, 0x08 to 0x0E (uint8, int8, int16, int32, float32, float64); the number of
    dimensions; the size of each dimension in four bytes; then the data, last dimension fastest, all big-endian.
    Raises DataError if the file cannot be read or unpacked, the header is wrong, a dimension is empty, there is less or
    more data than the header says, or data are not finite.

    Source: "The IDX file format" at the foot of http://yann.lecun.com/exdb/mnist/, which is also given at
    https://www.fon.hum.uva.nl/praat/manual/IDX_file_format.html.
    """
    content = _unpacked(path)
    dtype, sizes = _parse_header(content, path)
    start = 4 + 4 * len(sizes)
    found, expected = len(content) - start, math.prod(sizes) * dtype.itemsize
    if found != expected:
        what, offset = ("truncated data", len(content)) if found < expected else ("trailing bytes", start + expected)
        shape = "x".join(map(str, sizes))
        raise _fault(what, f"{found} bytes of data", f"{expected} ({dtype.name}, {shape})", _at(path, offset))
    array: Array = np.frombuffer(content, dtype, offset=start).reshape(sizes).astype(dtype.newbyteorder("="))
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        first = int(wrong[0])
        raise _fault("wrong number", array.flat[first], "finite ones only", _at(path, start + first * dtype.itemsize))
    return array


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _fault("unreadable file", error.strerror, "a file that can be read", path) from None
    if path.suffix != ".gz":
        return content
    if not content.startswith(GZIP_MAGIC):
        found = content[:2].hex(" ") or "no bytes"
        raise _fault("not a gzip file", found, f"{GZIP_MAGIC.hex(' ')} first", path)
    try:
        return gzip.decompress(content)
    except EOFError:
        raise _fault("truncated gzip file", f"only {len(content)} bytes", "its end marker", path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _fault("broken gzip file", error, "data that unpack", path) from None


def _parse_header(content: bytes, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the dtype, big-endian, and the size of each dimension."""
    if len(content) < 4:
        raise _fault("truncated header", f"{len(content)} bytes", "at least 4", path)
    code, rank = content[2:4]
    if content[:2] != b"\0\0":
        hint = " (a gzip, whose name should end in .gz)" if content.startswith(GZIP_MAGIC) else ""
        raise _fault("wrong magic number", content[:4].hex(" ") + hint, "00 00 and a type code", _at(path, 0))
    if code not in IDX_TYPES:
        known = ", ".join(f"0x{known:02x}" for known in IDX_TYPES)
        raise _fault("unknown type code", f"0x{code:02x}", f"one of {known}", _at(path, 2))
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise _fault("wrong number of dimensions", rank, f"1 to {MOST_DIMENSIONS}", _at(path, 3))
    if len(content) < 4 + 4 * rank:
        raise _fault("truncated header", f"{len(content)} bytes", f"{4 + 4 * rank} for {rank} dimensions", path)
    sizes: tuple[int, ...] = struct.unpack_from(f">{rank}I", content, 4)
    if 0 in sizes:
        axis = sizes.index(0)
        raise _fault("empty set", f"size 0 of dimension {axis}", "at least 1", _at(path, 4 + 4 * axis))
    return IDX_TYPES[code], sizes


def _at(path: Path, offset: int) -> str:
    return f"{path} at byte {offset}" + (" once unpacked" if path.suffix == ".gz" else "")


def _normalised(train: tuple[Array, Array], test: tuple[Array, Array], highest_grey: float, source: str) -> Digits:
    """Scale the images (n, 28, 28) to 0..1, then give the training images the mean 0 and the standard deviation 1."""
    train_images, test_images = (np.divide(part[0][:, None], highest_grey, dtype=np.float32) for part in (train, test))
    train_labels, test_labels = (part[1].astype(np.int64) for part in (train, test))
    if train_images.min() == train_images.max():
        raise _fault("training images without contrast", f"only {train_images.min()}", "more than one grey", source)
    # In float64, as sums over 47 million pixels lose digits in float32; as Python floats, which keep float32 arrays.
    mean, deviation = float(train_images.mean(dtype=np.float64)), float(train_images.std(dtype=np.float64))
    for images in (train_images, test_images):
        np.divide(images - mean, deviation, out=images)
    for array in (train_images, train_labels, test_images, test_labels):
        array.flags.writeable = False
    return Digits(train_images, train_labels, test_images, test_labels, source)

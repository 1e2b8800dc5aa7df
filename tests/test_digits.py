"""Digits: scikit-learn's set, MNIST from small IDX files made here, batches, and one error message per fault."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from suites.workloads import digits
from suites.workloads.digits import DataError, Digits, enlarge, load, mnist, read_idx, sklearn_digits

Array = npt.NDArray[Any]

# Written here a second time, from the format's description, so that a slip in the reader's table shows.
CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
TRAIN_COUNT, TEST_COUNT = 7, 3


def idx_bytes(array: Array) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def some_images(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def parts() -> dict[str, Array]:
    return {
        "train-images-idx3-ubyte": some_images(TRAIN_COUNT, 1),
        "train-labels-idx1-ubyte": np.array([3, 1, 4, 1, 5, 9, 0], np.uint8),
        "t10k-images-idx3-ubyte": some_images(TEST_COUNT, 2),
        "t10k-labels-idx1-ubyte": np.array([2, 6, 5], np.uint8),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, array in parts().items():
        (tmp_path / name).write_bytes(idx_bytes(array))
    return tmp_path


def small() -> Digits:
    """Seven training digits; every pixel of image i is i, and so is its label."""
    labels = np.arange(7, dtype=np.int64)
    images = np.broadcast_to(labels.astype(np.float32)[:, None, None, None], (7, 1, 28, 28))
    return Digits(images, labels, images[:2], labels[:2], "seven digits")


def message_of(act: Callable[[], object]) -> str:
    """Return the message of the DataError, which must be one line and bring no other exception with it."""
    with pytest.raises(DataError) as caught:
        act()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_well_formed(data: Digits, train: int, test: int) -> None:
    for images, labels, count in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        assert images.shape == (count, 1, 28, 28)
        assert images.dtype == np.float32
        assert labels.shape == (count,)
        assert labels.dtype == np.int64
        assert labels.min() >= 0
        assert labels.max() <= 9
        assert not images.flags.writeable
        assert not labels.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0
    assert abs(data.train_images.mean(dtype=np.float64)) < 1e-5
    assert abs(data.train_images.std(dtype=np.float64) - 1) < 1e-5


# scikit-learn's digits


def test_sklearn_digits_are_well_formed_and_cached() -> None:
    check_well_formed(sklearn_digits(), 1442, 355)
    assert load(None) is sklearn_digits()
    assert "scikit-learn" in sklearn_digits().source


def test_sklearn_split_is_the_same_each_time_and_stratified() -> None:
    again = sklearn_digits.__wrapped__()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sklearn_digits(), name))
    per_digit = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(sklearn_digits().test_labels), per_digit // 5)


def test_sklearn_parts_share_no_image_and_lose_none() -> None:
    data = sklearn_digits()
    train = {image.tobytes() for image in data.train_images}
    test = {image.tobytes() for image in data.test_images}
    assert not train & test
    assert len(train) + len(test) == 1797


def test_sklearn_images_keep_their_labels_and_are_normalised_by_the_training_part() -> None:
    """Rebuild both parts from scratch, with another implementation of the interpolation and a loop for the split."""
    raw, labels = load_digits(return_X_y=True)
    spread = np.array([np.interp((np.arange(28) + 0.5) * 8 / 28 - 0.5, np.arange(8), unit) for unit in np.eye(8)])
    images = spread.T @ (raw.reshape(-1, 8, 8) / 16) @ spread
    seen = dict.fromkeys(range(10), 0)
    train: list[int] = []
    test: list[int] = []
    for index, label in enumerate(labels):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(index)
    mean, deviation = images[train].mean(), images[train].std()
    data = sklearn_digits()
    for found, found_labels, chosen in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        np.testing.assert_array_equal(found_labels, labels[chosen])
        np.testing.assert_allclose(found[:, 0], (images[chosen] - mean) / deviation, atol=1e-5)


def test_validation_holds_out_training_digits_and_never_meets_the_test() -> None:
    whole, part = sklearn_digits(), sklearn_digits().validation()
    training = {image.tobytes() for image in whole.train_images}
    learned, held = ({image.tobytes() for image in images} for images in (part.train_images, part.test_images))
    assert learned | held == training
    assert not learned & held
    np.testing.assert_array_equal(np.bincount(part.test_labels), np.bincount(whole.train_labels) // 5)
    assert "held out" in part.source


def test_enlarge_keeps_constant_images_and_takes_pixels_as_areas() -> None:
    np.testing.assert_allclose(enlarge(np.full((2, 8, 8), 5.0)), np.full((2, 28, 28), 5.0))
    left = np.zeros((1, 8, 8))
    left[:, :, 0] = 1.0
    np.testing.assert_allclose(enlarge(left)[0, 0, :5], [1.0, 1.0, 11 / 14, 7 / 14, 3 / 14])


# IDX files


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_idx_reads_every_type(tmp_path: Path, name: str, suffix: str) -> None:
    dtype = np.dtype(name)
    low, high = (-1e30, 1e30) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    array = np.array([[low, 0, 1], [2, 3, high]], dtype)
    path = tmp_path / f"data{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(array)) if suffix else idx_bytes(array))
    found = read_idx(path)
    assert found.dtype == dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1,) * 64])
def test_read_idx_reads_every_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "data").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "data"), array)


def test_the_table_of_types_is_the_format_s() -> None:
    assert {dtype.name: code for code, dtype in digits.IDX_TYPES.items()} == CODES


GOOD = idx_bytes(np.arange(6, dtype=np.int16).reshape(2, 3))
PACKED = gzip.compress(GOOD, mtime=0)
NAN = idx_bytes(np.array([1.0, np.nan], np.float32))
INFINITE = idx_bytes(np.array([1.0, 2.0, -np.inf], np.float64))
# name of the case: file name, content (None: no file), then what the message must say besides the path
BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("a", None, "unreadable file: found No such file or directory, expected a file that can be read, in"),
    "not gzip": ("a.gz", GOOD, "not a gzip file: found 00 00, expected 1f 8b first, in"),
    "empty gzip": ("a.gz", b"", "not a gzip file: found no bytes, expected 1f 8b first, in"),
    "cut gzip": ("a.gz", PACKED[:-3], f"truncated gzip file: found only {len(PACKED) - 3} bytes, expected its end"),
    "bad checksum": ("a.gz", PACKED[:-8] + b"\1\2\3\4" + PACKED[-4:], "broken gzip file: found CRC check failed"),
    "bad deflate": ("a.gz", PACKED[:10] + b"\xff" * 30, "broken gzip file: found Error -3"),
    "empty": ("a", b"", "truncated header: found 0 bytes, expected at least 4, in"),
    "short magic": ("a", GOOD[:3], "truncated header: found 3 bytes, expected at least 4, in"),
    "short sizes": ("a", GOOD[:11], "truncated header: found 11 bytes, expected 12 for 2 dimensions, in"),
    "magic": ("a", b"\0\1" + GOOD[2:], "wrong magic number: found 00 01 0b 02, expected 00 00 and a type code, in"),
    "unnamed gzip": ("a", PACKED, "(a gzip, whose name should end in .gz), expected 00 00"),
    "code": ("a", b"\0\0\x0a" + GOOD[3:], "unknown type code: found 0x0a, expected one of 0x08, 0x09, 0x0b, 0x0c,"),
    "no dimension": ("a", b"\0\0\x08\0\0", "wrong number of dimensions: found 0, expected 1 to 64, in"),
    "dimensions": ("a", b"\0\0\x08\x41", "wrong number of dimensions: found 65, expected 1 to 64, in"),
    "no data": ("a", idx_bytes(np.zeros((2, 0), np.int8)), "empty set: found size 0 of dimension 1, expected at least"),
    "truncated": ("a", GOOD[:-1], "truncated data: found 11 bytes of data, expected 12 (int16, 2x3), in"),
    "header only": ("a", GOOD[:12], "truncated data: found 0 bytes of data, expected 12 (int16, 2x3), in"),
    "huge": ("a", b"\0\0\x0e\3" + b"\xff" * 12, "(float64, 4294967295x4294967295x4294967295), in"),
    "trailing": ("a", GOOD + b"!", "trailing bytes: found 13 bytes of data, expected 12 (int16, 2x3), in"),
    "nan": ("a", NAN, "wrong number: found nan, expected finite ones only, in"),
    "infinity": ("a", INFINITE, "wrong number: found -inf, expected finite ones only, in"),
}
OFFSETS = {"magic": 0, "code": 2, "no dimension": 3, "dimensions": 3, "no data": 8}
OFFSETS |= {"truncated": 23, "header only": 12, "huge": 16, "trailing": 24, "nan": 12, "infinity": 24}


@pytest.mark.parametrize("case", BROKEN)
def test_read_idx_says_what_is_broken(tmp_path: Path, case: str) -> None:
    name, content, fact = BROKEN[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = message_of(lambda: read_idx(tmp_path / name))
    assert fact in message
    assert str(tmp_path / name) in message
    if case in OFFSETS:
        assert message.endswith(f"at byte {OFFSETS[case]}")


def test_offsets_in_a_gzip_are_those_of_the_unpacked_data(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(GOOD + b"!"))
    assert message_of(lambda: read_idx(tmp_path / "a.gz")).endswith("a.gz at byte 24 once unpacked")


@pytest.mark.parametrize(("name", "content"), [("a", GOOD), ("a.gz", PACKED)])
def test_a_file_cut_anywhere_is_a_data_error(tmp_path: Path, name: str, content: bytes) -> None:
    for length in range(len(content)):
        (tmp_path / name).write_bytes(content[:length])
        message_of(lambda: read_idx(tmp_path / name))


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert "unreadable file: found Is a directory" in message_of(lambda: read_idx(tmp_path))


# MNIST


def test_mnist_is_scaled_normalised_and_well_formed(folder: Path) -> None:
    data = load(folder)
    check_well_formed(data, TRAIN_COUNT, TEST_COUNT)
    assert data.source == f"MNIST in {folder}"
    raw = {name: array / 255 for name, array in parts().items()}
    train, test = raw["train-images-idx3-ubyte"], raw["t10k-images-idx3-ubyte"]
    np.testing.assert_allclose(data.train_images[:, 0], (train - train.mean()) / train.std(), atol=1e-5)
    np.testing.assert_allclose(data.test_images[:, 0], (test - train.mean()) / train.std(), atol=1e-5)
    np.testing.assert_array_equal(data.train_labels, [3, 1, 4, 1, 5, 9, 0])
    np.testing.assert_array_equal(data.test_labels, [2, 6, 5])


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_finds_every_form_of_the_names(tmp_path: Path, folder: Path, mark: str, suffix: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, array in parts().items():
        content = idx_bytes(array)
        path = other / (name.replace("-idx", f"{mark}idx") + suffix)
        path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(mnist(other).train_images, mnist(folder).train_images)
    np.testing.assert_array_equal(mnist(other).test_labels, mnist(folder).test_labels)


def test_the_plain_file_goes_before_the_gzip(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not read")
    assert len(mnist(folder).train_images) == TRAIN_COUNT


@pytest.mark.parametrize("name", parts())
def test_a_missing_file_lists_the_names_tried(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = message_of(lambda: mnist(folder))
    dotted = name.replace("-idx", ".idx")
    assert f"expected {name} or {dotted} or {name}.gz or {dotted}.gz, in {folder}" in message
    assert f"no file of MNIST's {name.split('-idx', maxsplit=1)[0]}: found none of these names" in message


def test_a_missing_folder(tmp_path: Path) -> None:
    message = message_of(lambda: mnist(tmp_path / "nowhere"))
    assert message.startswith("no MNIST folder: found No such file or directory, expected a folder")
    assert str(tmp_path / "nowhere") in message


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    message = message_of(lambda: mnist(folder / "t10k-labels-idx1-ubyte"))
    assert "no MNIST folder: found Not a directory" in message


GREY = np.full((TRAIN_COUNT, 28, 28), 9, np.uint8)
LABELS = np.array([3, 1, 4, 10, 5, 255, 0], np.uint8)
# name of the case: file, its array, what the message must say, and the byte it must point to
UNFIT: dict[str, tuple[str, Array, str, int]] = {
    "image size": ("train-images-idx3-ubyte", GREY[:, :, :27], "wrong image size: found 28x27, expected 28x28", 8),
    "image rank": ("t10k-images-idx3-ubyte", GREY[0], "wrong number of dimensions: found 2, expected 3", 3),
    "label rank": ("t10k-labels-idx1-ubyte", LABELS[:, None], "wrong number of dimensions: found 2, expected 1", 3),
    "image type": ("train-images-idx3-ubyte", GREY.astype(np.float32), "type of data: found float32, expected uns", 2),
    "label type": ("train-labels-idx1-ubyte", LABELS.astype(np.int8), "type of data: found int8, expected unsigned", 2),
    "fewer labels": ("train-labels-idx1-ubyte", LABELS[:3], "wrong number of labels: found 3, expected 7 as in", 4),
    "more labels": ("t10k-labels-idx1-ubyte", LABELS[:4], "wrong number of labels: found 4, expected 3 as in", 4),
    "label": ("train-labels-idx1-ubyte", LABELS, "wrong label of image 3: found 10, expected 0 to 9", 11),
    "no labels": ("t10k-labels-idx1-ubyte", LABELS[:0], "empty set: found size 0 of dimension 0, expected at least", 4),
    "no images": ("train-images-idx3-ubyte", GREY[:0], "empty set: found size 0 of dimension 0, expected at least", 4),
}


@pytest.mark.parametrize("case", UNFIT)
def test_mnist_says_what_does_not_fit(folder: Path, case: str) -> None:
    name, array, fact, offset = UNFIT[case]
    (folder / name).write_bytes(idx_bytes(array))
    message = message_of(lambda: mnist(folder))
    assert fact in message
    assert message.endswith(f"{folder / name} at byte {offset}")
    if "as in" in fact:
        assert str(folder / name.replace("labels-idx1", "images-idx3")) in message


def test_images_of_one_grey_cannot_be_normalised(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(GREY))
    message = message_of(lambda: mnist(folder))
    assert re.search(r"without contrast: found only 0\.035\d*, expected more than one grey", message)
    assert str(folder) in message


# batches


@pytest.mark.parametrize("size", [1, 4, 7, 20])
def test_sample_draws_pairs_without_replacement_where_it_can(size: int) -> None:
    batch = small().sample(np.random.default_rng(0), size)
    assert batch["image"].shape == (size, 1, 28, 28)
    assert batch["image"].dtype == np.float32
    assert batch["label"].shape == (size,)
    assert batch["label"].dtype == np.int64
    assert batch["image"].flags.writeable
    np.testing.assert_array_equal(batch["image"][:, 0, 5, 5], batch["label"])
    if size <= 7:
        assert len(set(batch["label"].tolist())) == size


def test_sample_depends_on_the_generator_alone() -> None:
    first, again, other = (small().sample(np.random.default_rng(seed), 7)["label"].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(("size", "batches"), [(1, 7), (2, 3), (3, 2), (4, 1), (7, 1)])
def test_epoch_yields_full_batches_of_each_digit_at_most_once(size: int, batches: int) -> None:
    found = list(small().epoch(np.random.default_rng(0), size))
    assert [len(batch["label"]) for batch in found] == [size] * batches
    labels = np.concatenate([batch["label"] for batch in found])
    assert len(set(labels.tolist())) == size * batches
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in found])[:, 0, 0, 0], labels)


def test_epoch_shuffles_anew_each_time() -> None:
    rng = np.random.default_rng(0)
    first, second = (next(small().epoch(rng, 7))["label"].tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first != list(range(7))


@pytest.mark.parametrize("size", [0, -1])
def test_sample_refuses_an_empty_batch(size: int) -> None:
    message = message_of(lambda: small().sample(np.random.default_rng(0), size))
    assert message == f"wrong batch size: found {size}, expected at least 1, in seven digits"


@pytest.mark.parametrize("size", [0, -1, 8])
def test_epoch_refuses_at_the_call_what_gives_no_batch(size: int) -> None:
    message = message_of(lambda: small().epoch(np.random.default_rng(0), size))
    assert message == f"wrong batch size: found {size}, expected 1 to 7, the number of training digits, in seven digits"

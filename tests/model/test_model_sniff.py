"""What a file seems to be leads to a way out that is one."""

import io

import pytest
import torch
from safetensors.torch import save

from spectrank.errors import CheckpointError
from spectrank.model import iter_weights
from spectrank.model.sniff import content_hint

TENSORS = {"w": torch.eye(3)}


def saved(**options):
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, **options)
    return buffer.getvalue()


ZIP, PICKLE = saved(), saved(_use_new_zipfile_serialization=False)


@pytest.mark.parametrize("content", [ZIP, PICKLE, save(TENSORS)])
@pytest.mark.parametrize("name", ["noext", "m.weights"])
def test_the_name_that_a_hint_gives_can_be_read(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"; it looks like .*: name it \."
    ) as told:
        iter_weights(path)
    suffix = str(told.value).rsplit("name it ", 1)[1]
    renamed = path.rename(path.with_suffix(suffix))
    (weight,) = iter_weights(renamed)
    assert torch.equal(weight.tensor(), TENSORS["w"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.gguf", b"GGUF" + bytes(range(128, 255))),
        ("m.pt", ZIP[: len(ZIP) // 2]),
        ("m.ckpt", PICKLE[: len(PICKLE) // 2]),
    ],
)
def test_no_file_is_told_to_take_the_name_that_it_has(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert content_hint(path).startswith("it is cut short, damaged")


def test_gguf_of_another_name_is_told_its_own(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"GGUF" + bytes(99))
    assert content_hint(path) == "it looks like GGUF: name it .gguf"


def test_a_header_that_begins_as_a_pickle_does_is_of_safetensors(tmp_path):
    # 0x280 = 640 bytes of header: its length begins as a pickle of protocol 2 does.
    path = tmp_path / "m"
    path.write_bytes((0x280).to_bytes(8, "little") + b'{"w":' + b" " * 635)
    assert path.read_bytes()[:2] == PICKLE[:2]
    assert content_hint(path).endswith("name it .safetensors")

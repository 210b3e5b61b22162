"""The public surface, and what a bare import may cost."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import spectrank as sr


def test_every_public_name_loads():
    for name in sr.__all__:
        assert getattr(sr, name) is not None, name
    assert set(sr.__all__) <= set(dir(sr))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sr.nonsense


@pytest.mark.parametrize(
    "code",
    ["import spectrank", "import spectrank.cli.app", "import spectrank.errors"],
)
def test_importing_the_package_or_its_command_does_not_wait_for_torch(code):
    probe = (
        f"{code}; import sys; print('torch' in sys.modules, 'polars' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == ["False", "False"]


def test_the_version_is_the_packages(capsys):
    out = subprocess.run(
        [sys.executable, "-m", "spectrank", "--version"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.strip() == f"spectrank {version('spectrank')}"


def test_shape_types_work_without_jaxtyping():
    probe = (
        "import sys; sys.modules['jaxtyping'] = None\n"
        "from spectrank.linalg.shapes import Matrix, Spectral\n"
        "import torch; assert Matrix is torch.Tensor, Matrix"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_the_version_is_that_of_the_package():
    assert sr.__version__ == version("spectrank")

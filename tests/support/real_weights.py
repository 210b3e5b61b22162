"""Files of packages that carry real weights, as their own libraries load them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def folder_of(package: str) -> Path:
    """Folder of an installed package; the test is skipped without it."""
    # The package itself is not imported: some ask for more than their weights need.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"package {package} with real weights is not installed")
    return Path(spec.submodule_search_locations[0])


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Name to tensor, as torch or safetensors load the file, all at once."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    loaded = torch.load(path, weights_only=True, map_location="cpu")
    for key in ("model_state", "state_dict"):
        loaded = loaded.get(key, loaded)
    assert isinstance(loaded, dict)
    return loaded

"""Shards as the Python package tensorflowjs writes them, with what it reads back.

    pip install --no-deps --target PACKAGES tensorflowjs==4.22.0
    python tests/model/formats/generate_tfjs_shards.py PACKAGES

Its ``write_weights`` and ``read_weights`` need NumPy alone. Writes
tfjs_shards_golden.json beside itself: per coding the manifest, the shards and the
values.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# Seven numbers a shard: weights cross its end.
SHARD_BYTES = 28


def tool(packages: Path, name: str) -> Any:
    if "tensorflowjs" not in sys.modules:
        # Without its __init__, which imports TensorFlow.
        module = types.ModuleType("tensorflowjs")
        module.__path__ = [str(packages / "tensorflowjs")]
        sys.modules["tensorflowjs"] = module
        sys.modules["tensorflow"] = tensorflow = types.ModuleType("tensorflow")
        # All that write_weights asks of it: to open a file.
        files = types.SimpleNamespace(GFile=open)
        tensorflow.io = types.SimpleNamespace(gfile=files)
    return importlib.import_module(f"tensorflowjs.{name}")


def case(packages: Path, coding: str | None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"a/kernel": (5, 3), "a/bias": (3,), "b/kernel": (3, 4)}
    group = [
        {"name": name, "data": rng.standard_normal(shape).astype(np.float32)}
        for name, shape in shapes.items()
    ]
    group.append({"name": "step", "data": np.array([7], dtype=np.int32)})
    chosen = None if coding is None else {coding: ["*/kernel", "*/bias"]}
    with tempfile.TemporaryDirectory() as folder:
        manifest = tool(packages, "write_weights").write_weights(
            [group], folder, SHARD_BYTES, quantization_dtype_map=chosen
        )
        (read,) = tool(packages, "read_weights").read_weights(manifest, folder)
        shards = {
            path.name: base64.b64encode(path.read_bytes()).decode()
            for path in sorted(Path(folder).iterdir())
            if path.suffix == ".bin"
        }
    values = {item["name"]: item["data"].tolist() for item in read}
    return {"manifest": manifest, "shards": shards, "values": values}


def main() -> None:
    packages = Path(sys.argv[1]).resolve()
    codings = (None, "float16", "uint8", "uint16")
    found = {str(coding): case(packages, coding) for coding in codings}
    text = json.dumps(found, indent=1)
    (HERE / "tfjs_shards_golden.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()

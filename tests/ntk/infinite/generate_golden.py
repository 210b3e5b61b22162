"""Golden kernels of infinitely wide nets from neural-tangents, an independent library.

Run in an environment of its own: neural-tangents 0.6.5 (``--no-deps``) on jax = jaxlib
= 0.4.23, numpy 1.26.4, scipy 1.12.0, tensorflow-cpu 2.17.1, tf2jax 0.3.6. Writes
``golden.json`` beside this file. Images are (batch, channels, height, width) there.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

W_STD, B_STD, WIDTH = 1.3, 0.4, 24
PACKAGES = ("neural-tangents", "jax", "jaxlib", "numpy", "scipy")


def dense(stax: Any, kind: str, width: int = WIDTH) -> tuple:
    return stax.Dense(width, W_std=W_STD, b_std=B_STD, parameterization=kind)


def conv(stax: Any, kind: str, padding: str = "SAME", stride: int = 1) -> tuple:
    return stax.Conv(
        WIDTH,
        (3, 3),
        (stride, stride),
        padding,
        W_std=W_STD,
        b_std=B_STD,
        parameterization=kind,
    )


def skip(stax: Any, *layers: tuple) -> tuple:
    return stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.Identity(), stax.serial(*layers)),
        stax.FanInSum(),
    )


def dense_nets(stax: Any, kind: str) -> dict[str, tuple]:
    maps = {
        "relu": stax.Relu(),
        "leaky_relu": stax.LeakyRelu(0.2),
        "abs": stax.Abs(),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "cos": stax.Cos(),
    }
    nets = {
        f"fc_{name}": (
            dense(stax, kind),
            phi,
            dense(stax, kind),
            phi,
            dense(stax, kind, 1),
        )
        for name, phi in maps.items()
    }
    nets["fc_residual"] = (
        dense(stax, kind),
        skip(stax, stax.Relu(), dense(stax, kind)),
        skip(stax, stax.Erf(), dense(stax, kind), stax.Gelu(), dense(stax, kind)),
        stax.Relu(),
        dense(stax, kind, 1),
    )
    nets["fc_layer_norm"] = (
        dense(stax, kind),
        stax.LayerNorm(eps=1e-5),
        stax.Relu(),
        dense(stax, kind),
        stax.LayerNorm(eps=1e-5),
        stax.Erf(),
        dense(stax, kind, 1),
    )
    return nets


def image_nets(stax: Any, kind: str) -> dict[str, tuple]:
    relu, out = stax.Relu(), dense(stax, kind, 1)
    end = (stax.Flatten(), out)
    pool = stax.AvgPool((2, 2), (2, 2), "VALID")
    everywhere = (stax.GlobalAvgPool(), out)
    return {
        "conv_flatten": (
            conv(stax, kind),
            relu,
            conv(stax, kind, stride=2),
            stax.Gelu(),
            *end,
        ),
        "conv_circular": (
            conv(stax, kind, "CIRCULAR"),
            relu,
            conv(stax, kind, "CIRCULAR"),
            *end,
        ),
        "conv_valid": (conv(stax, kind, "VALID"), stax.Erf(), *end),
        "conv_avg_pool": (conv(stax, kind), relu, pool, conv(stax, kind), relu, *end),
        "conv_global": (
            conv(stax, kind),
            relu,
            conv(stax, kind, stride=2),
            relu,
            *everywhere,
        ),
        "conv_circular_global": (
            conv(stax, kind, "CIRCULAR"),
            stax.Gelu(),
            conv(stax, kind, "CIRCULAR"),
            stax.Erf(),
            *everywhere,
        ),
        "conv_residual": (
            conv(stax, kind),
            skip(stax, relu, conv(stax, kind), relu, conv(stax, kind)),
            relu,
            *everywhere,
        ),
        "conv_layer_norm": (
            conv(stax, kind),
            stax.LayerNorm(axis=-1, eps=1e-5),
            relu,
            conv(stax, kind),
            stax.LayerNorm(axis=(1, 2, 3), eps=1e-5),
            relu,
            *end,
        ),
    }


def main() -> None:
    """Write the kernels of every net, in both parametrisations."""
    # In here: the tests of this folder are collected where jax is not.
    import jax

    jax.config.update("jax_enable_x64", True)
    from neural_tangents import stax

    draws = np.random.default_rng(0)
    dense_x = np.round(draws.standard_normal((4, 3)), 3)
    dense_y = np.round(draws.standard_normal((2, 3)), 3)
    image_x = np.round(draws.standard_normal((3, 2, 5, 5)), 2)
    image_y = np.round(draws.standard_normal((2, 2, 5, 5)), 2)
    found: dict = {
        "versions": {name: version(name) for name in PACKAGES},
        "W_std": W_STD,
        "b_std": B_STD,
        "width": WIDTH,
        "inputs": {
            "fc": {"x": dense_x.tolist(), "y": dense_y.tolist()},
            "conv": {"x": image_x.tolist(), "y": image_y.tolist()},
        },
        "kernels": {},
    }
    for kind in ("standard", "ntk"):
        for name, layers in {
            **dense_nets(stax, kind),
            **image_nets(stax, kind),
        }.items():
            kernel = stax.serial(*layers)[2]
            x, y = (dense_x, dense_y) if name[:2] == "fc" else (image_x, image_y)
            if name[:2] != "fc":
                x, y = (t.transpose(0, 2, 3, 1) for t in (x, y))
            entry = {}
            for key, other in (("xx", None), ("xy", y)):
                got = kernel(x, other, ("nngp", "ntk"))
                entry[key] = {
                    "nngp": np.asarray(got.nngp).tolist(),
                    "ntk": np.asarray(got.ntk).tolist(),
                }
            found["kernels"][f"{name}-{kind}"] = entry
    path = Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

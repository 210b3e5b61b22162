r"""The mean kernel: multilinear in the stable ranks of all other layers.

At fixed spectral norms, a1_j = sigma_j^2 sr_j and

    E K_l  is proportional to  prod_{j != l} sr_j :

a layer's own term does not contain its own stable rank, the other terms are linear in
it, and with one stable rank in all L layers E K goes with its power L - 1. At fixed
Frobenius norms no stable rank is left in any term.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.estimates import log_means, slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.kernel.claims import ours
from spectrank.experiments.georgiev2021stable.kernel.nets import Net
from spectrank.experiments.georgiev2021stable.kernel.observables import KERNEL_TERMS
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)

_WIDTHS = (32, 40, 10)
_SIGMAS = (2.0, 1.5, 2.5)
_NUM = len(_WIDTHS)
_RANKS = (1.5, 2.4, 3.8, 6.0)
_OTHER = 4.0
_LOGS = np.log(_RANKS)
_TOTAL = -1
_RECORDED = "K_l(x, x) / |x|^2, the trace over the outputs,"


def one_layer(inputs: Inputs, size: Size) -> Design:
    """Vary the stable rank of one layer, each layer in turn.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    protocol = (
        f"{_text(inputs)}, spectral norms {listed(_SIGMAS)}; stable rank "
        f"{listed(_RANKS)} in one layer and {_OTHER:g} in the others; "
        f"{size.text(inputs, recorded=_RECORDED)}"
    )
    nets = [
        _net(inputs, [r if k == j else _OTHER for k in range(_NUM)])
        for j in range(_NUM)
        for r in _RANKS
    ]
    questions = [
        question
        for j in range(_NUM)
        for question in _layer_questions(j, nets, inputs, protocol)
    ]
    return design(
        "kernel-one-layer",
        inputs,
        size,
        [net.point() for net in nets],
        questions,
        KERNEL_TERMS,
    )


def _text(inputs: Inputs) -> str:
    widths = (inputs.dimension, *_WIDTHS)
    return f"ReLU networks {listed(widths, '-')} without biases, spectrum spike"


def _net(inputs: Inputs, ranks: Sequence[float], *, spectral: bool = True) -> Net:
    label = f"{'spectral' if spectral else 'frobenius'}, ranks {listed(ranks)}"
    return Net(
        label,
        (inputs.dimension, *_WIDTHS),
        ("spike",) * _NUM,
        tuple(ranks),
        _SIGMAS if spectral else None,
    )


def _layer_questions(
    j: int, nets: Sequence[Net], inputs: Inputs, protocol: str
) -> list[Question]:
    own = list(range(j * len(_RANKS), (j + 1) * len(_RANKS)))
    laws = [nets[i].law for i in own]
    others = [k for k in range(_NUM) if k != j]
    layer = f"layer-{j + 1}"

    def found(y: np.ndarray, term: int) -> np.ndarray:
        return slopes(_LOGS, log_means(y[:, own][..., term]))

    def line(term: int, name: str, expected: Sequence[float]) -> Line:
        return Line(
            name, _RANKS, lambda y: y[:, own][..., term].mean(-1), list(expected)
        )

    lines = [
        line(k, f"K_{k + 1}", [law.mean_terms[k] for law in laws]) for k in range(_NUM)
    ]
    total = line(_TOTAL, "K", [law.mean for law in laws])
    slope = float(slopes(_LOGS, np.log([[law.mean for law in laws]]))[0])
    axes = Axes(f"stable rank of layer {j + 1}", "mean kernel", "kernel", "log", "log")
    linear = ours(
        f"linear-in-stable-rank.{layer}",
        inputs.data,
        f"At fixed spectral norms the kernel's terms of the other layers are linear in "
        f"the stable rank of layer {j + 1}: their log-log slope is 1 (mean over them).",
        protocol=protocol,
        quantity="log_log_slope",
        tolerance=0.1,
    )
    itself = ours(
        f"own-term-without-stable-rank.{layer}",
        inputs.data,
        f"At fixed spectral norms the kernel's term of layer {j + 1} does not depend "
        "on its own stable rank: the log-log slope is 0.",
        protocol=protocol,
        quantity="log_log_slope",
        expected=0.0,
        tolerance=0.1,
    )
    whole = ours(
        f"sum-of-terms.{layer}",
        inputs.data,
        f"The whole mean kernel is a constant plus a multiple of the stable rank of "
        f"layer {j + 1}: over these stable ranks its log-log slope is {slope:.4g}.",
        protocol=protocol,
        quantity="log_log_slope",
        expected=slope,
        tolerance=0.1,
    )
    return [
        Question(
            linear,
            lambda y: np.mean([found(y, k) for k in others], axis=0),
            axes,
            tuple(lines[k] for k in others),
        ),
        Question(itself, lambda y: found(y, j), axes, (lines[j],)),
        Question(whole, lambda y: found(y, _TOTAL), axes, (total,)),
    ]


def all_layers(inputs: Inputs, size: Size) -> Design:
    """Vary one stable rank in all layers, at either fixed norm.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    num = len(_RANKS)
    protocol = (
        f"{_text(inputs)}, stable rank {listed(_RANKS)} in all layers, spectral norms "
        f"{listed(_SIGMAS)} or ||W||_F^2 = 2 m; "
        f"{size.text(inputs, recorded=_RECORDED)}"
    )
    nets = [
        _net(inputs, [r] * _NUM, spectral=spectral)
        for spectral in (True, False)
        for r in _RANKS
    ]
    power = ours(
        "compounds-over-layers",
        inputs.data,
        f"With one stable rank in all {_NUM} layers, at fixed spectral norms, the mean "
        f"kernel goes with its power {_NUM - 1}.",
        protocol=protocol,
        quantity="log_log_slope",
        expected=_NUM - 1.0,
        tolerance=0.1 * (_NUM - 1),
    )
    control = ours(
        "drops-out-at-fixed-frobenius-norm",
        inputs.data,
        "Control: with one stable rank in all layers, at fixed Frobenius norms, the "
        "mean kernel does not depend on it: the log-log slope is 0.",
        protocol=protocol,
        quantity="log_log_slope",
        expected=0.0,
        tolerance=0.1,
    )
    questions = [
        _power(power, nets[:num], range(num)),
        _power(control, nets[num:], range(num, 2 * num)),
    ]
    points = [net.point() for net in nets]
    return design("kernel-all-layers", inputs, size, points, questions, KERNEL_TERMS)


def _power(claim: Claim, nets: Sequence[Net], own: Sequence[int]) -> Question:
    rows = list(own)
    return Question(
        claim,
        lambda y: slopes(_LOGS, log_means(y[:, rows][..., _TOTAL])),
        Axes("stable rank of all layers", "mean kernel", "kernel", "log", "log"),
        (
            Line(
                "K",
                _RANKS,
                lambda y: y[:, rows][..., _TOTAL].mean(-1),
                [net.law.mean for net in nets],
            ),
        ),
    )

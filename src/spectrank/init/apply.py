"""`apply_`: the weights of a whole model, and a Table of target against achieved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.init.control.requests import check_model
from spectrank.init.fill import random_source
from spectrank.init.plan import Job, plan
from spectrank.init.ranks import Requested, checked_request
from spectrank.init.rows import COLUMNS, METRICS, block_rows
from spectrank.init.scale import Mode, Norm, Scale, checked_gain, checked_scale
from spectrank.init.sites import find_sites
from spectrank.model import Graph, Skip
from spectrank.model import graph as read_graph
from spectrank.scanning import parse_metrics
from spectrank.scanning.provenance import defined, environment
from spectrank.scanning.rows import skip_row
from spectrank.table import Table


def apply_(
    model: nn.Module,
    *,
    stable_rank: Requested = None,
    fraction: float | None = None,
    spectrum: str = "mp-spike",
    norm: Norm = "frobenius",
    sigma: float | str | None = None,
    gain: float | str = "auto",
    mode: Mode = "fan_in",
    select: str | Sequence[str] = "*",
    example_input: Any = None,
    generator: torch.Generator | None = None,
) -> Table:
    r"""Fill the weights of a model with matrices of a prescribed stable rank, in place.

    `stable_rank_` on every linear layer and convolution. All requests are checked, and
    draws that may be refused are made, before the first weight is written. Biases,
    norms, embeddings and buffers are left as they are, with a row that says so. Same
    generator state, same model: same weights.

    What is one matrix: a linear weight; each group of a convolution, unfolded; query,
    key and value of nn.MultiheadAttention each (of a packed projection in another
    layer where the graph shows them, else the whole); each gate of LSTM and GRU; the
    column ``part`` tells. Left, with a reason: transposed convolutions, bilinear
    layers, parametrised weights, parameters whose use is not known, and vectors (1 x n,
    such as an output layer of one unit or a depthwise kernel), whose stable rank is
    always 1. Tied weights are filled once.

    One number for many weights is lowered in each weight that cannot have it to what
    it can (``mp-spike``: what its draws reliably reach), as by RandomMLP, the row
    telling; one that no weight can have is an error, and so is a value by name that
    its weight cannot have.

    ``gain="auto"`` reads the activation after each layer from the graph (relu sqrt 2,
    linear 1, tanh 5/3, others by `spectrank.random_nets.activation_gain`); before a
    sum of branches, a product, attention or the output it is 1; the row ``gain`` says
    why. ``gain="typical"`` reads the same for the typical scale.

    Source (derived): tests/init/test_init_apply.py.

    Args:
        model: Any module.
        stable_rank: Absolute: one number for all, or by weight name or glob; an exact
            name goes before a glob, then the first match counts.
        fraction: Of min(m, n) of each matrix, in (0, 1]; a stable rank below 1 is
            raised to 1.
        spectrum: One of ``sr.linalg.SPECTRA``; ``orthogonal`` and ``gaussian`` take
            neither of the two.
        norm: ``frobenius`` or ``spectral``; see `stable_rank_`.
        sigma: Spectral norm (of ``gaussian``, whose norms are random, up to its
            fluctuations), or ``depth-critical``.
        gain: ``auto``, a number or an activation for all, ``typical`` or
            ``typical-linear``.
        mode: ``fan_in``, ``fan_out`` or ``fan_avg``.
        select: Glob pattern(s) of weight names.
        example_input: What the model takes; for ``auto`` and ``typical``. A Sequential
            of layers of torch needs none.
        generator: Source of randomness; the global one, as of `torch.nn.init`, only
            where it is None.

    Returns:
        Per matrix rows ``stable_rank``, ``participation_ratio``, ``spectral_norm`` and
        ``frobenius_norm`` measured on the weight as it is stored, with ``target`` (of a
        random spectrum the value for the expectations) and the relative ``tolerance``
        of its precision; a row ``stable_rank_target`` beside the first, and, where some
        matrix was lowered or raised, ``stable_rank_asked`` with the reason; a row
        ``gain``; a row of kind ``skip`` for what was left.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If a weight cannot have what is asked for, tied weights are asked
            for two values, no weight can be filled, or the graph is needed and not
            known.
        UnknownNameError: If there is no such spectrum, norm, mode or gain.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8))
        >>> g = torch.Generator().manual_seed(0)
        >>> table = apply_(net, fraction=0.25, spectrum="flat", generator=g)
        >>> round(table.value("0.weight", "stable_rank"), 4)
        8.0
        >>> round(table.value("0.weight", "gain"), 4)
        1.6667
    """  # noqa: DOC502 - some are raised by the functions called
    scale = checked_scale(norm, mode, sigma)
    checked_gain(gain, scale, default="auto")
    checked_request(stable_rank, fraction, spectrum)
    if not isinstance(select, str | Sequence):
        raise ArgumentTypeError(
            f"select is a pattern or a list of them, got {type(select).__name__}; "
            "e.g. select='*.mlp.*'"
        )
    check_model(model, select)
    wiring = _graph(model, example_input, scale, gain)
    plans = plan(
        find_sites(model, select, wiring),
        stable_rank=stable_rank,
        fraction=fraction,
        spectrum=spectrum,
        scale=scale,
        gain=gain,
        graph=wiring,
    )
    rows = _written(plans, generator)
    made = {
        **environment(),
        **defined(parse_metrics(METRICS)),
        "input": type(model).__name__,
        "settings": {
            "stable_rank": _plain(stable_rank),
            "fraction": _plain(fraction),
            "spectrum": spectrum,
            "norm": norm,
            "sigma": _plain(sigma),
            "gain": _plain(gain),
            "mode": mode,
            "select": select if isinstance(select, str) else list(select),
        },
    }
    return Table.from_rows(rows, provenance=made, columns=COLUMNS)


def _plain(x: Any) -> Any:
    """A word, or a number of any type as JSON has it, or such by name."""
    if isinstance(x, Mapping):
        return {name: _plain(value) for name, value in x.items()}
    return x if x is None or isinstance(x, str) else float(x)


def _graph(
    model: nn.Module, example_input: Any, scale: Scale, gain: float | str
) -> Graph | None:
    needed = scale.uses_gain and gain in {"auto", "typical"}
    if not needed and example_input is None:
        return None
    _check_sized(model)
    try:
        return read_graph(model, example_input)
    except DomainError as error:
        # The way out of the function called, a wiring, is none here.
        got = str(error).rpartition("; ")[0] or str(error)
        rule = "an example_input is what the model takes"
        if needed:
            rule = f"gain={gain!r} is read from the graph of the model"
        raise DomainError(
            f"{rule}, got none: {got}; pass an example_input that the model takes, or "
            "without one a gain that is a number or an activation, which needs no graph"
        ) from error


def _check_sized(model: nn.Module) -> None:
    for name, tensor in model.named_parameters():
        if is_lazy(tensor):
            raise DomainError(
                "a model is initialised when its weights have shapes, got "
                f"{name}, which is lazy; run the model once on an input first"
            )


def _written(
    plans: Sequence[Job | Skip], generator: torch.Generator | None
) -> list[dict[str, Any]]:
    # Draws are held up to the last that can be refused, so that a refusal finds every
    # weight as it was; after it, one at a time. The order is that of the model: a loop
    # over stable_rank_ gives the same weights.
    jobs = [item for item in plans if isinstance(item, Job)]
    doubtful = [i for i, job in enumerate(jobs) if job.may_fail]
    lowered = any(job.reason for job in jobs)
    first = doubtful[-1] + 1 if doubtful else 0
    held = {id(job): _draw(job, generator) for job in jobs[:first]}
    rows: list[dict[str, Any]] = []
    for item in plans:
        if isinstance(item, Skip):
            rows.append({**skip_row(item), "metric": "stable_rank_init"})
            continue
        drawn = held.pop(id(item), None)
        drawn = _draw(item, generator) if drawn is None else drawn
        m, n = item.ensemble.m, item.ensemble.n
        pairs = zip(item.blocks, drawn.reshape(-1, m, n), strict=True)
        for block, matrix in pairs:
            block.write(item.site.tensor, matrix)
            rows += block_rows(item, block, lowered=lowered)
    return rows


def _draw(job: Job, generator: torch.Generator | None) -> Tensor:
    tensor = job.site.tensor
    return job.ensemble.sample(
        random_source(generator, tensor.device),
        spectral_norm=job.spectral_norm,
        num=len(job.blocks) if len(job.blocks) > 1 else None,
        dtype=tensor.dtype,
        device=tensor.device,
    )

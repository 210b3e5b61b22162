"""``measure``: the rows of ``predict`` on a given model with data, or on drawn ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.haar import check_count, check_generator
from spectrank.model.capture.choose import Choices
from spectrank.model.capture.unpack import Unpack
from spectrank.propagation.measurement.context import Quantity, Request
from spectrank.propagation.measurement.directions import Cotangents, check_cotangents
from spectrank.propagation.measurement.models import measure_model
from spectrank.propagation.measurement.networks import measure_networks
from spectrank.propagation.measurement.tally import Tally
from spectrank.propagation.names import COLUMNS
from spectrank.random_nets import RandomMLP
from spectrank.scanning.provenance import environment
from spectrank.table import Table


def measure(
    model: nn.Module | RandomMLP,
    x: Any,
    *,
    num_networks: int | None = None,
    quantities: Sequence[Quantity] = get_args(Quantity),
    layers: Choices = None,
    num_directions: int = 1,
    cotangents: Cotangents = "random",
    generator: torch.Generator | None = None,
    mode: Literal["eval", "train"] | None = "eval",
    unpack: Unpack | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_axis: int | None = None,
) -> Table:
    r"""Signal, gradient, Jacobian and angle rows of `predict`, measured.

    Of a **module**: means over its inputs, layer by layer, in one pass over the data.
    z_l is what a weight layer gives, h_l what the activation after it gives (traced in
    the graph; a skip row says where there is none to be read), norms run over all
    positions and features of a sample, padding left out. Of a **law** (`RandomMLP`):
    means over ``num_networks`` networks drawn from it, at given inputs.

    - ``signal_gain`` |h_l|^2/|x|^2, per neuron too; its relative second moment; mean
      and variance of its logarithm where something arrives;
      ``layer_relative_variance`` of |h_l|^2/|h_{l-1}|^2.
    - ``cosine`` of pairs of inputs (0 and 1, 2 and 3, ...; ``index`` 0 the inputs
      themselves) at z_l (``pre``) and h_l (``post``, the outputs at the last layer of a
      law), and the annealed ``squared_cosine`` at z_l.
    - ``gradient_gain`` |J_l^T v|^2/|v|^2 at the input of layer l, through layer l (a
      skip around it is another way), with its second moment, log mean and variance.
    - ``jacobian_gain`` |J u|^2/|u|^2 of z_l along random u by forward mode, with its
      second moment, log mean and variance, and ``length_gain`` E|J u|/|u|, of a short
      straight piece of a curve; for a whole curve `count_pieces`.
    - of a law also ``jacobian_eigenvalue_variance`` of its networks' outputs at the
      first input, ``annealed``.

    ``standard_error`` is the delta method's over independent clusters, ``num_samples``
    of them: inputs (disjoint pairs for angles, so that none is used twice) or
    networks; directions, logits and inputs of one cluster are averaged first. ``lower``
    and ``upper`` are 4 standard errors away. Where the scatter of the logarithm says
    that so few samples cannot tell a raw moment, its status is ``not_converged`` and
    the reason says so: read the logarithms there. A gain outside the range of float64
    has status ``nonfinite`` and its logarithm in ``log_value``; a sample of zeros has
    no gain, a skip row says that it was left out. Computed as the model computes, sums
    in float64.
    Source (derived): tests/propagation/measurement.

    Args:
        model: A module, left bit for bit as it was, or a law.
        x: A batch: a tensor, (inputs, targets) or a mapping; or a loader of batches.
            Of a law (N, n_0) or (n_0,) inputs.
        num_networks: Of a law, at least 2. With a law ``quantities`` and ``generator``
            apply too; the options of a module below do not and are refused.
        quantities: Which of ``signal``, ``angles``, ``gradients``, ``jacobian``.
        layers: As in `spectrank.capture`.
        num_directions: Random u and v per sample.
        cotangents: v at the output: ``random`` (uniform, of norm 1), ``logits`` (every
            coordinate vector), or one tensor of the shape of a sample's output. The
            output is the tensor that the model gives, its ``logits``, or the first
            part of a tuple; without one a skip row stands for the gradients.
        generator: Source of directions, and of a law's weights; by default one seeded
            with 0, so that a call repeats.
        mode: In which the model runs.
        unpack: As in `spectrank.capture`.
        device: Where batches go; None for the device of the model.
        dtype: Of the floating-point inputs; None keeps it.
        batch_axis: As in `spectrank.capture`.

    Returns:
        One row per (subject, metric, variant, index); ``route`` ``capture`` for a
        module, ``sampled`` for a law.

    Raises:
        ArgumentTypeError: ``model`` is neither, a law's inputs are no tensor, inputs
            have another dtype than the model, or an option is of another type.
        DomainError: An option outside its range, no batch or no sample, or inputs that
            are all zero.
        ShapeError: Inputs or cotangents of another shape, or inputs of a module
            without a batch axis.
        UnknownNameError: ``cotangents`` is another word.

    Example:
        >>> import torch
        >>> net = RandomMLP([16, 16, 16], spectrum="orthogonal", activation="linear")
        >>> table = measure(net, torch.ones(16), num_networks=4)
        >>> round(table.value("1.weight", "signal_gain", variant="pre"), 12)
        1.0
    """  # noqa: DOC502 - a part is raised by the functions called
    chosen = _quantities(quantities)
    check_count("num_directions", num_directions)
    check_cotangents(cotangents)
    own = torch.Generator().manual_seed(0)
    if generator is not None:
        own = check_generator(generator)
    options: dict[str, Any] = {
        "layers": layers,
        "num_directions": num_directions,
        "cotangents": cotangents,
        "mode": mode,
        "unpack": unpack,
        "dtype": dtype,
        "batch_axis": batch_axis,
    }
    if isinstance(model, RandomMLP):
        _check_law(x, num_networks)
        _check_options({**options, "device": device})
        return _of_law(model, x, num_networks or 0, chosen, own)
    _check_module(model, num_networks)
    held = next(iter((*model.parameters(), *model.buffers())), None)
    default = torch.device("cpu") if held is None else held.device
    where = default if device is None else torch.device(device)
    tally = Tally()
    request = Request(**options, quantities=chosen, generator=own, device=where)
    measure_model(model, _loader(x), request, tally)
    return _table(tally, "capture", {"input": type(model).__name__})


def _of_law(
    law: RandomMLP,
    x: Tensor,
    num_networks: int,
    quantities: frozenset[str],
    generator: torch.Generator,
) -> Table:
    tally = Tally()
    measure_networks(law, x, num_networks, quantities, generator, tally)
    made_of = {"law": repr(law), "num_networks": num_networks}
    return _table(tally, "sampled", made_of)


def _check_module(model: Any, num_networks: int | None) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            "measured is a torch.nn.Module or a RandomMLP, got "
            f"{type(model).__name__}; load a checkpoint into its module first"
        )
    if num_networks is not None:
        raise DomainError(
            f"num_networks belongs to a RandomMLP, got {num_networks} with one given "
            "network; leave it out"
        )


def _table(tally: Tally, route: str, more: dict[str, Any]) -> Table:
    return Table.from_rows(
        tally.rows(route), columns=COLUMNS, provenance=environment() | more
    )


def _loader(x: Any) -> Iterable[Any]:
    if isinstance(x, Tensor | tuple | Mapping):
        return [x]
    if isinstance(x, Iterable):
        return x
    raise ArgumentTypeError(
        "data is a tensor, a tuple, a mapping or an iterable of batches, got "
        f"{type(x).__name__}; pass the inputs as a tensor"
    )


def _quantities(quantities: Sequence[str]) -> frozenset[str]:
    known = get_args(Quantity)
    given = {quantities} if isinstance(quantities, str) else set(quantities)
    strangers = sorted(given - set(known))
    if strangers or not given:
        raise DomainError(
            f"quantities are some of {', '.join(known)}, got "
            f"{', '.join(strangers) or 'none'}; leave the option out for all"
        )
    return frozenset(given)


def _check_options(options: Mapping[str, Any]) -> None:
    defaults = {"num_directions": 1, "cotangents": "random", "mode": "eval"}
    for name, given in options.items():
        if isinstance(given, Tensor) or given != defaults.get(name):
            what = type(given).__name__ if isinstance(given, Tensor) else repr(given)
            raise DomainError(
                f"{name} is an option of a given module, got {name}={what} with a "
                "RandomMLP; leave it out, or measure a network that you sample"
            )


def _check_law(x: Any, num_networks: int | None) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
        raise ArgumentTypeError(
            "inputs of a law are a floating-point tensor (N, n_0), got "
            f"{type(x).__name__}; pass that"
        )
    if num_networks is None:
        raise DomainError(
            "a RandomMLP is a law, means are taken over networks drawn from it, got "
            "num_networks=None; pass how many"
        )
    check_count("num_networks", num_networks)
    if num_networks < 2:
        raise DomainError(
            "a standard error needs at least two networks, got num_networks="
            f"{num_networks}; draw more"
        )

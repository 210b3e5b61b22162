"""Matrices of a model that no statistics are of, each with the reason.

A pass sees the input rows of *modules*: a matrix that a module applies beside others
(packed query, key and value; gates), or that a forward pass multiplies by without a
module, has none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from spectrank.model import Skip, WeightMatrix, iter_weights


def complete_skips(
    model: nn.Module,
    measured: Collection[str],
    skips: tuple[Skip, ...],
    owners: Collection[str] | None,
) -> tuple[Skip, ...]:
    """The skips of layers, with those of all other matrices that are not measured.

    Args:
        model: Any module.
        measured: Names of the parameters that have statistics.
        skips: Of chosen layers. One that is named as its module, which has no
            ``weight``, is told matrix by matrix.
        owners: Names of the chosen modules, whose own matrices alone are wanted; None
            for all.

    Returns:
        Skips, one for each matrix, or for a module without any.
    """
    known = {skip.name: skip for skip in skips}
    told: set[str] = set()
    more: list[Skip] = []
    for names, skip in _matrices(model):
        owner = skip.name.rpartition(".")[0]
        wanted = owners is None or owner in owners
        if not wanted or any(n in measured or n in known for n in names):
            continue
        if owner in known:
            told.add(owner)
            skip = replace(skip, reason=known[owner].reason)
        more.append(skip)
    return (*(skip for skip in skips if skip.name not in told), *more)


def stacked_skips(model: nn.Module) -> tuple[Skip, ...]:
    """Parameters of two or more axes that are not one matrix, with the reason.

    Args:
        model: Any module.

    Returns:
        Skips: packed query, key and value, gates, transposed convolutions.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return tuple(
        # What follows the first clause is a way out for `scan` alone.
        replace(weight, reason=weight.reason.split(";")[0])
        for weight in iter_weights(model, split=False)
        if isinstance(weight, Skip)
        and weight.name in parameters
        and len(weight.shape) >= 2
        and not weight.reason.startswith(("tied to", "factor of"))
    )


def _matrices(model: nn.Module) -> list[tuple[tuple[str, ...], Skip]]:
    """Names of every matrix, and the skip that it is if nothing measures it."""
    found = []
    for weight in iter_weights(model, split=False):
        if isinstance(weight, WeightMatrix):
            reason = (
                f"a matrix of {weight.layer_type or 'the model'} that no module "
                "applies by itself, so its input rows are not seen; hold it in an "
                "nn.Linear to have it measured"
            )
            skip = Skip(
                weight.name, reason, weight.shape, weight.dtype, weight.layer_type
            )
            found.append(((weight.name, *weight.tied_to), skip))
    for skip in stacked_skips(model):
        reason = f"{skip.reason}, which no module applies by itself"
        found.append(((skip.name,), replace(skip, reason=reason)))
    return found

"""The networks of the table obey the rate test wherever a law is said to hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import table
from spectrank.experiments.le2022training.conservation.networks import (
    NUM_INPUTS,
    networks,
)
from spectrank.experiments.le2022training.conservation.table import TableSize
from spectrank.experiments.le2022training.problems import gaussian, separable, slope

JUNCTIONS = [(net, junction) for net in networks() for junction in net.junctions]
UNITS = {"linear": 0, "relu": 1, "inner-relu": 2}


def rates(net, junction, kind):
    """d/dt of writes minus reads by the product rule, one entry after the other."""
    num, names = 3, ("rates", net.name)
    data = separable(11, names, num, NUM_INPUTS, 12)
    problem = replace(data, forward=net.forward(*table._activations(kind)))
    params = gaussian(11, names, num, net.shapes)
    speed = {k: -g for k, g in slope(problem, params).of_risk().items()}
    step = 1e-5
    ahead = {k: v + step * speed[k] for k, v in params.items()}
    behind = {k: v - step * speed[k] for k, v in params.items()}
    # A quadratic function's central difference is its derivative but for rounding.
    return (junction.values(ahead) - junction.values(behind)) / (2 * step)


@pytest.mark.parametrize(
    ("net", "junction"), JUNCTIONS, ids=[j.name for _, j in JUNCTIONS]
)
def test_entries_said_to_be_conserved_have_rate_zero_and_the_others_not(net, junction):
    for row in table._rows(junction):
        rate = rates(net, junction, row.units)
        diagonal = rate.diagonal(dim1=1, dim2=2)
        off = rate - diagonal.diag_embed()
        chosen = torch.stack([diagonal.abs().amax(1), off.abs().flatten(1).amax(1)])
        largest = chosen[list(row.parts)].amax(0)
        if row.conserved:
            assert float(largest.max()) < 1e-9
        else:
            assert float(largest.max()) > 1e-4


def test_values_of_a_junction_are_the_products_written_out():
    by_name = {junction.name: (net, junction) for net, junction in JUNCTIONS}
    net, junction = by_name["across-diagonal"]
    p = gaussian(0, ("values",), 2, net.shapes)
    expected = (
        p["u1.weight"] @ p["u1.weight"].mT
        + p["u1.bias"][:, :, None] * p["u1.bias"][:, None]
        + (p["s1"].square() - p["s2"].square()).diag_embed()
        - p["y2.weight"].mT @ p["y2.weight"]
    )
    torch.testing.assert_close(junction.values(p), expected)
    net, junction = by_name["conv-dense"]
    p = gaussian(0, ("values",), 2, net.shapes)
    columns = p["dense1.weight"].unflatten(2, (-1, 2)).transpose(1, 2).flatten(2)
    kernel = torch.cat([p["conv2.weight"].flatten(2), p["conv2.bias"][..., None]], 2)
    torch.testing.assert_close(
        junction.values(p), kernel @ kernel.mT - columns @ columns.mT
    )


def planted(num=5):
    """Drifts as the theory has them, spread over the draws."""
    size = TableSize(num)
    found = np.full((num, len(JUNCTIONS), 3, 2, len(size.times)), np.nan)
    spread = 1.0 + 0.1 * np.arange(num)[:, None]
    for j, (_, junction) in enumerate(JUNCTIONS):
        for row in table._rows(junction):
            for part in row.parts:
                drift = 1e-8 if row.conserved else 0.3
                found[:, j, row.units, part] = drift * spread
    return size, found


def test_every_claim_on_the_table_reads_its_own_entry():
    size, drifts = planted()
    asked = table.questions(size)
    assert len({question.claim.key for question in asked}) == len(asked)
    number = {junction.name: j for j, (_, junction) in enumerate(JUNCTIONS)}
    for question in asked:
        name = question.claim.key.split(".")[-1]
        rows = question.rows(np.nan_to_num(drifts, nan=1e-8), 0)
        assert rows[0]["verdict"] == "reproduced", name
        junction = max((j for j in number if name.startswith(j + "-")), key=len)
        units = name.removeprefix(junction + "-").removesuffix("-diagonal")
        units = UNITS[units.removesuffix("-off")]
        spoiled = np.nan_to_num(drifts, nan=1e-8)
        part = 0 if name.endswith("-diagonal") else 1
        entries = spoiled[:, number[junction], units]
        if question.claim.relation == "at_most":
            entries[:, part] = 0.3
        else:
            entries[:] = 1e-8
        assert question.rows(spoiled, 0)[0]["verdict"] == "contradicted", name


def test_drifts_of_a_short_run_tell_conserved_from_not():
    found = table.measure(TableSize(2, num_samples=10, step=0.05, times=(0.5,)), 5, int)
    conv, across = 0, 4
    assert found[:, conv, 0].max() < 1e-5
    assert found[:, conv, 1, 0].max() < 1e-3
    assert found[:, across, 0].max() > 1e-3

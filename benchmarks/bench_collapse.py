"""What does it cost to measure collapse, in epochs of the model itself?

A fully connected network 784-1024x4-10 in float32 on 10,000 samples in batches of 128,
all data in memory. Statistics of features (sums alone; covariances with products in
float64 and in float32) are compared with a forward epoch, `collapse.measure` with a
forward-backward epoch of the same network over the same batches. The last ratio is
that of NC1 in one pass against the published algorithm, which passes over the features
twice (class means, then covariances; Papyan, Han & Donoho 2020, the reference notebook,
with one product per class and batch in place of its outer products of single samples)
on the same features of the last hidden layer; both values must agree.
"""

import argparse
import os
from itertools import pairwise

import numpy as np
import torch
from harness import interleave, seconds, summarise, write
from scipy.sparse.linalg import svds
from torch import nn

from spectrank.collapse import gather, measure
from spectrank.collapse.features import nc1_of
from spectrank.linalg.moments import ClassMoments

CLASSES, INPUTS, BATCH = 10, 784, 128
# Name: options of `gather`, largest ratio to a forward epoch that is hoped for.
FEATURES = {
    "sums alone": ({"scatter": "trace"}, 1.5),
    "covariances, products in float64": ({"scatter": "full"}, 5.0),
    "covariances, products in float32": (
        {"scatter": "full", "precision": "float32"},
        2.5,
    ),
}
MEASURE_AIM = 3.0


class Case:
    """A network, its batches and the two kinds of epochs."""

    def __init__(self, samples, width, hidden):
        g = torch.Generator().manual_seed(0)
        y = torch.randint(CLASSES, (samples,), generator=g)
        centres = torch.randn(CLASSES, INPUTS, generator=g)
        x = centres[y] + torch.randn(samples, INPUTS, generator=g)
        starts = range(0, samples, BATCH)
        self.batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in starts]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = []
            for n, m in pairwise([INPUTS, *[width] * hidden, CLASSES]):
                layers += [nn.Linear(n, m), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    def forward_epoch(self):
        """One epoch without gradients."""
        with torch.no_grad():
            for x, _ in self.batches:
                self.model(x)

    def backward_epoch(self):
        """One epoch with the gradients of a step."""
        for x, y in self.batches:
            self.model.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
        self.model.zero_grad()

    def statistics(self, options):
        """Features alone, in a forward pass."""
        return gather(self.model, self.batches, loss=None, keep_bytes=0, **options)

    def measured(self):
        """The whole table."""
        return measure(
            self.model, self.batches, loss="cross_entropy", weight_decay=5e-4
        )

    def last_features(self):
        """Inputs of the last layer with labels, batch by batch."""
        with torch.no_grad():
            return [(self.model[:-1](x), y) for x, y in self.batches]


def one_pass(features):
    moments = ClassMoments(CLASSES, features[0][0].shape[1])
    for rows, labels in features:
        moments.update(rows, labels)
    return nc1_of(moments.compute(), "papyan").value


def two_passes(features, dtype):
    """NC1 by the published algorithm: means, then covariances, then a truncated SVD."""
    dim = features[0][0].shape[1]
    sums, counts = torch.zeros(CLASSES, dim, dtype=dtype), torch.zeros(CLASSES)
    for rows, labels in features:
        for c in range(CLASSES):
            chosen = rows[labels == c].to(dtype)
            sums[c] += chosen.sum(0)
            counts[c] += len(chosen)
    means = sums / counts[:, None].to(dtype)
    within = torch.zeros(dim, dim, dtype=dtype)
    for rows, labels in features:
        for c in range(CLASSES):
            z = rows[labels == c].to(dtype) - means[c]
            within += z.T @ z
    within /= counts.sum().to(dtype)
    centred = means - means.mean(0)
    between = (centred.T @ centred / CLASSES).numpy()
    u, s, vt = svds(between, k=CLASSES - 1, random_state=0)
    inverse = vt.T @ np.diag(1.0 / s) @ u.T
    return float(np.trace(within.numpy() @ inverse))


def costs(name, epoch, measured, aim, pairs):
    """Ratio of a measurement to an epoch, interleaved."""
    epoch()
    measured()
    row = summarise([(seconds(epoch), seconds(measured)) for _ in range(pairs)])
    row["epoch_seconds"] = row.pop("ours_seconds")
    row["measurement_seconds"] = row.pop("theirs_seconds")
    return {"case": name, **row, "aim_at_most": aim}


def against_two_passes(features, dtype, tolerance, pairs):
    ours, theirs = one_pass(features), two_passes(features, dtype)
    difference = abs(theirs / ours - 1.0)
    assert difference < tolerance, difference
    row = interleave(
        lambda: one_pass(features), lambda: two_passes(features, dtype), pairs=pairs
    )
    name = str(dtype).removeprefix("torch.")
    return row | {
        "case": f"NC1 of the last features against two passes in {name}",
        "relative_difference": float(f"{difference:.1e}"),
    }


def run(case, pairs):
    rows = [
        costs(
            name,
            case.forward_epoch,
            lambda options=options: case.statistics(options),
            aim,
            pairs,
        )
        for name, (options, aim) in FEATURES.items()
    ]
    rows.append(
        costs("measure", case.backward_epoch, case.measured, MEASURE_AIM, pairs)
    )
    features = case.last_features()
    # Ours computes in float64 whatever the features are in.
    for dtype, tolerance in ((torch.float32, 1e-2), (torch.float64, 1e-6)):
        rows.append(against_two_passes(features, dtype, tolerance, pairs))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--smoke", action="store_true", help="small, writes nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.smoke:
        for row in run(Case(1000, 64, 2), 1):
            print(row)
        return
    case = Case(arguments.samples, arguments.width, arguments.hidden)
    rows = run(case, arguments.pairs)
    rows.append({"case": "many small", "rows": run(Case(2000, 64, 4), arguments.pairs)})
    ratios = {row["case"]: row.get("ratio_median") for row in rows}
    write(
        "what does it cost to measure collapse, in epochs of the model itself",
        f"On a network {INPUTS}-{arguments.width}x{arguments.hidden}-{CLASSES} sums "
        f"alone cost {ratios['sums alone']} forward epochs, covariances "
        f"{ratios['covariances, products in float64']}, and collapse.measure "
        f"{ratios['measure']} forward-backward epochs.",
        rows,
    )


if __name__ == "__main__":
    main()

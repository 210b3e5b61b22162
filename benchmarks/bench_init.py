"""How long does a matrix of prescribed stable rank take against torch's orthogonal_?

float32, filled in place, the same threads on both sides. The peer is
torch.nn.init.orthogonal_ on the same tensor: the only initialiser of torch that sets a
spectrum. 4096 x 4096 for the spectra that need Haar factors (one spike, flat up to
half, flat above) and for mp-spike, which needs none; and 64 layers of 256 x 256, where
every layer costs its Python too. The stable rank achieved is measured after the timing.
"""

import argparse

import torch
from harness import interleave, write

from spectrank import spectrum
from spectrank.init import stable_rank_

# Name: size, layers, spectrum, share of min(m, n), largest times the peer's time.
CASES = {
    "spike, n/4": (4096, 1, "spike", 0.25, 1.3),
    "flat, n/2": (4096, 1, "flat", 0.5, 1.3),
    "flat, 3n/4": (4096, 1, "flat", 0.75, 2.6),
    "mp-spike, n/8": (4096, 1, "mp-spike", 0.125, 0.1),
    "many small: spike, n/4": (256, 64, "spike", 0.25, None),
    "many small: flat, n/2": (256, 64, "flat", 0.5, None),
    "many small: mp-spike, n/8": (256, 64, "mp-spike", 0.125, None),
}


def compare(name, size, pairs):
    n, layers, shape, share, aim = CASES[name]
    n = size if size and layers == 1 else n
    weights = [torch.empty(n, n) for _ in range(layers)]
    g = torch.Generator().manual_seed(0)

    def ours():
        for W in weights:
            stable_rank_(W, fraction=share, spectrum=shape, generator=g)

    def theirs():
        for W in weights:
            torch.nn.init.orthogonal_(W, generator=g)

    row = interleave(ours, theirs, pairs=pairs)
    ours()
    s = spectrum(weights[0], ("frobenius", "sigma_max"))
    reached = (s.frobenius.value / s.sigma_max.value) ** 2
    assert abs(reached / (share * n) - 1.0) < 1e-3, reached
    return {
        "case": name,
        "size": n,
        "layers": layers,
        # The harness gives theirs / ours; the aims are ours / theirs.
        "times_the_peer": round(1.0 / row["ratio_median"], 3),
        "aim": aim,
        **row,
        "stable_rank": round(reached, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, help="of the single matrices, for a trial")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--case", help="only the cases whose name has this in it")
    arguments = parser.parse_args()
    rows = []
    for name in CASES:
        if arguments.case is None or arguments.case in name:
            rows.append(compare(name, arguments.size, arguments.pairs))
            print(rows[-1], flush=True)
    times = "; ".join(f"{r['times_the_peer']} ({r['case']})" for r in rows)
    claim = f"stable_rank_ against torch.nn.init.orthogonal_, times its time: {times}"
    if arguments.size is None and arguments.case is None:
        write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()

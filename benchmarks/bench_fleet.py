"""How much faster do 64 networks train as a fleet than one after the other?

Fully connected ReLU networks with biases, 10 classes, SGD with momentum and weight
decay, float32, each network with a learning rate and a batch order of its own, all
data in memory. The peer is a plain PyTorch loop: nn.Sequential, cross_entropy,
torch.optim.SGD in its fastest implementation of three, at the faster of one and of all
threads. Both sides start from the same parameters and see the same batches; their
losses after five steps must agree (rounding in float32 grows after). The ratio at one
thread on both sides is the gain by batching; at all threads ours has its groups beside
each other as well, which the peer could only have by several processes.
"""

import argparse
import copy
import os

import numpy as np
import torch
from harness import interleave, seconds, write
from torch import nn

from spectrank.train import SGD, batch_order, stack, train_fleet

NUM_SAMPLES, CLASSES = 4096, 10
# Name: members, inputs, width, depth, batch size, steps, least ratio hoped for.
CASES = {
    "width 64, depth 20, batch 32": (64, 64, 64, 20, 32, 50, 4.0),
    "width 64, depth 20, batch 128": (64, 64, 64, 20, 128, 50, 1.8),
    "width 64, depth 8, batch 128": (64, 32, 64, 8, 128, 100, None),
    "many small: width 16, depth 3, batch 32": (256, 16, 16, 3, 32, 100, None),
}
CHECKED = 5
PEER_OPTIMIZERS = ({"fused": True}, {"foreach": True}, {"foreach": False})


class Case:
    """Networks, data and settings of both sides."""

    def __init__(self, members, inputs, width, depth, batch_size, steps):
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(NUM_SAMPLES, inputs, generator=g)
        centres = torch.randn(inputs, CLASSES, generator=g)
        self.y = (self.x @ centres).argmax(1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.nets = [network(inputs, width, depth) for _ in range(members)]
        self.stacked = stack(self.nets)
        self.rates = np.geomspace(0.001, 0.02, members)
        self.batch_size, self.steps = batch_size, steps

    def ours(self, threads, steps=None):
        """Losses of the last step of a fleet."""
        result = train_fleet(
            self.nets[0],
            self.stacked,
            self.x,
            self.y,
            optimizer=SGD(learning_rate=self.rates, momentum=0.9, weight_decay=1e-4),
            batch_size=self.batch_size,
            seeds=range(len(self.nets)),
            max_steps=steps or self.steps,
            num_threads=threads,
        )
        assert result.route == "mlp"
        return result.losses[-1]

    def theirs(self, threads, options, *, members=None, steps=None):
        """Losses of the last steps of a loop."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        chosen = self.nets[:members]
        steps = steps or self.steps
        losses = [self.train_one(i, n, options, steps) for i, n in enumerate(chosen)]
        torch.set_num_threads(before)
        return np.array(losses)

    def train_one(self, member, net, options, steps):
        """Loss of the last step of one run of the loop."""
        net = copy.deepcopy(net)
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=float(self.rates[member]),
            momentum=0.9,
            weight_decay=1e-4,
            **options,
        )
        order = batch_order(member, NUM_SAMPLES, self.batch_size)
        for _ in range(steps):
            index = next(order)
            loss = nn.functional.cross_entropy(net(self.x[index]), self.y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())


def network(inputs, width, depth):
    sizes = [inputs, *[width] * (depth - 1), CLASSES]
    layers = []
    for m, n in zip(sizes[1:], sizes[:-1], strict=True):
        linear = nn.Linear(n, m)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fastest_peer(case, threads):
    """Find the peer's best threads and optimiser on a few of the networks."""
    settings = [(c, o) for c in sorted({1, threads}) for o in PEER_OPTIMIZERS]
    # Rounds: a busy spell of the machine then hits every setting.
    rounds = [
        [seconds(lambda s=setting: case.theirs(*s, members=4)) for setting in settings]
        for _ in range(5)
    ]
    least = np.array(rounds).min(0)
    return settings[int(least.argmin())]


def compare(name, threads, members, pairs):
    size, *rest, steps, aim = CASES[name]
    case = Case(members or size, *rest, steps)
    count, options = fastest_peer(case, threads)
    theirs = case.theirs(count, options, steps=CHECKED)
    difference = np.abs(case.ours(threads, steps=CHECKED) / theirs - 1).max()
    assert difference < 1e-3, difference
    row = interleave(
        lambda: case.ours(threads), lambda: case.theirs(count, options), pairs=pairs
    )
    return row | {
        "case": name,
        "members": len(case.nets),
        "steps": steps,
        "our_threads": threads,
        "their_threads": count,
        "their_optimizer": ", ".join(f"{k}={v}" for k, v in options.items()),
        "largest_relative_difference_of_losses": float(f"{difference:.1e}"),
        "aim": aim,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, help="fewer networks, for a trial")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, help="instead of one and all cores")
    arguments = parser.parse_args()
    counts = sorted({1, os.cpu_count() or 1})
    counts = [arguments.threads] if arguments.threads else counts
    rows = []
    for name in CASES:
        for threads in counts:
            rows.append(compare(name, threads, arguments.members, arguments.pairs))
            print(rows[-1])
    ratios = "; ".join(
        f"{r['ratio_median']} ({r['case']}, {r['our_threads']} threads)" for r in rows
    )
    claim = f"A fleet against a loop of PyTorch runs, times faster: {ratios}"
    if arguments.members is None:
        write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()

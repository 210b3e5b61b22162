"""Convolutional nets and normalised nets."""

import torch
from torch import nn

from invariance_oracles.case import Case, features

# The smallest eps torch takes: scale laws are exact at eps = 0 only.
EPS = 1e-30


def chain(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


def conv(n, m, size=2, **options):
    return lambda: nn.Conv2d(n, m, size, **options)


def linear(n, m, **options):
    return lambda: nn.Linear(n, m, **options)


def batchnorm(size):
    return lambda: nn.BatchNorm2d(size, eps=EPS)


def frozen_batchnorm(size):
    """BatchNorm with statistics as after training: a mean of zero is no shift."""

    def build():
        norm = nn.BatchNorm2d(size, eps=EPS)
        norm.running_mean.copy_(torch.linspace(0.5, 1.0, size))
        norm.running_var.copy_(torch.linspace(0.5, 2.0, size))
        return norm

    return build


def average():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class BasicBlock(nn.Module):
    """BasicBlock of a ResNet, with a shortcut of a convolution and a BatchNorm."""

    def __init__(self, n, m, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(n, m, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(m, eps=EPS)
        self.conv2 = nn.Conv2d(m, m, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(m, eps=EPS)
        self.shortcut = nn.Sequential()
        # Not ReLU: a dead channel before a BatchNorm has variance zero.
        self.act = nn.LeakyReLU(0.3)
        if shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n, m, 1, bias=False), nn.BatchNorm2d(m, eps=EPS)
            )

    def forward(self, x):
        h = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(h + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, one block with identity skip, one with a shortcut, pooling, head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(2, 2, 1, bias=False),
            nn.BatchNorm2d(2, eps=EPS),
            nn.LeakyReLU(0.3),
        )
        self.block1 = BasicBlock(2, 2, shortcut=False)
        self.block2 = BasicBlock(2, 2, shortcut=True)
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.block2(self.block1(self.stem(x))).mean((2, 3)))


class DenseNet(nn.Module):
    """A channel read by two later convolutions through concatenation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 1)
        self.b = nn.Conv2d(2, 1, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = torch.cat([h, torch.relu(self.b(h))], 1)
        return self.head(h.mean((2, 3)))


image = features(1, 3, 3)
wide = features(2)


def _norm(name, norm, count, *, activation=nn.ReLU, sums=0, **rest):
    build = chain(linear(2, 3), norm, activation, linear(3, 2))
    return Case(name, build, features(2, batch=5), count, sums, **rest)


CONV = [
    Case(
        "cnn relu max-pool flatten",
        chain(
            conv(1, 2), nn.ReLU, lambda: nn.MaxPool2d(2, 1), nn.Flatten, linear(2, 2)
        ),
        image,
        2,
        3,
    ),
    Case(
        "cnn relu two convolutions",
        chain(conv(1, 2), nn.ReLU, conv(2, 2, 1), nn.ReLU, nn.Flatten, linear(8, 2)),
        image,
        4,
        9,
    ),
    Case(
        "cnn leaky average",
        chain(
            conv(1, 2), nn.LeakyReLU, conv(2, 2), nn.LeakyReLU, average, linear(2, 2)
        ),
        image,
        4,
        3,
    ),
    Case("densenet", DenseNet, features(1, 2, 2), 3, 4),
    Case(
        "cnn linear average",
        chain(conv(1, 2), lambda: nn.AvgPool2d(2, 1), nn.Flatten, linear(2, 2)),
        image,
        3,
        3,
    ),
    Case(
        "cnn linear flatten",
        chain(conv(1, 2), nn.Flatten, linear(8, 2)),
        image,
        3,
        9,
    ),
    Case(
        "cnn linear max-pool",
        chain(conv(1, 2), lambda: nn.MaxPool2d(2, 1), nn.Flatten, linear(2, 2)),
        image,
        2,
        3,
    ),
    Case(
        "cnn linear groups",
        chain(
            conv(2, 4, 1, groups=2), conv(4, 2, 2, groups=2), nn.Flatten, linear(2, 1)
        ),
        features(2, 2, 2),
        8,
        0,
        note="blocks: two groups of two channels (3 + 3), then one per channel",
    ),
    Case(
        "cnn batchnorm relu",
        chain(
            conv(1, 2, bias=True),
            batchnorm(2),
            nn.ReLU,
            conv(2, 1, 1),
            nn.ReLU,
            nn.Flatten,
            linear(4, 2),
        ),
        features(1, 3, 3, batch=3),
        7,
        5,
        linear=2,
    ),
    Case(
        "cnn batchnorm relu no bias",
        chain(conv(1, 2, bias=False), batchnorm(2), nn.ReLU, average, linear(2, 2)),
        features(1, 3, 3, batch=3),
        4,
        3,
    ),
    Case(
        "cnn batchnorm gelu",
        chain(conv(1, 2), batchnorm(2), nn.GELU, average, linear(2, 2)),
        features(1, 3, 3, batch=3),
        4,
        3,
        linear=2,
    ),
    # With a bias before the fixed mean m there are two mixed laws more, in b^2 - 2 m b.
    Case(
        "cnn batchnorm eval",
        chain(
            conv(1, 2, bias=False), frozen_batchnorm(2), nn.ReLU, average, linear(2, 2)
        ),
        features(1, 3, 3, batch=3),
        2,
        3,
        train=False,
    ),
    Case(
        "resnet batchnorm",
        ResNet,
        features(2, 2, 2, batch=6),
        22,
        3,
        linear=2,
        note="kernels 2 + 4 + 6, bn1 2 + 2, streams 2 + 2, equal gradients 2",
    ),
    _norm("dense batchnorm", lambda: nn.BatchNorm1d(3, eps=EPS), 9, sums=4, linear=3),
    _norm("dense layernorm", lambda: nn.LayerNorm(3, eps=EPS), 7, sums=4, linear=3),
    _norm("dense rmsnorm", lambda: nn.RMSNorm(3, eps=EPS), 4, sums=4, linear=0),
    _norm(
        "dense layernorm gelu",
        lambda: nn.LayerNorm(3, eps=EPS),
        4,
        activation=nn.GELU,
        sums=4,
        linear=3,
    ),
    Case(
        "cnn groupnorm",
        chain(
            conv(1, 4, 1),
            lambda: nn.GroupNorm(2, 4, eps=EPS),
            nn.ReLU,
            average,
            linear(4, 1),
        ),
        features(1, 2, 2),
        8,
        0,
        linear=2,
    ),
    Case(
        "weight norm",
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
            nn.ReLU(),
            nn.Linear(3, 2),
        ),
        wide,
        6,
        4,
    ),
]

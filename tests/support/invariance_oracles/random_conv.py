"""Random small nets on images: convolutions, pools, norms, groups, shared kernels."""

from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

from invariance_oracles.case import Case, features
from invariance_oracles.zoo_conv import EPS

_ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.3), "tanh": nn.Tanh}


class Residual(nn.Module):
    """X + branch(x)."""

    def __init__(self, *branch):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x):
        return x + self.branch(x)


class Twice(nn.Module):
    """The same convolution, applied twice with an activation between."""

    def __init__(self, conv, between):
        super().__init__()
        self.conv, self.between = conv, between

    def forward(self, x):
        return self.conv(self.between(self.conv(x)))


def build(steps):
    """Return a Sequential from steps of plain data."""
    layers = []
    for op, *rest in steps:
        if op == "conv":
            n, m, size, padding, groups, bias = rest
            layers.append(
                nn.Conv2d(n, m, size, padding=padding, groups=groups, bias=bias)
            )
        elif op == "transposed":
            layers.append(nn.ConvTranspose2d(rest[0], rest[1], 2, bias=rest[2]))
        elif op == "residual":
            inner = _ACTIVATIONS[rest[1]]()
            layers.append(
                Residual(nn.Conv2d(rest[0], 1, 1), inner, nn.Conv2d(1, rest[0], 1))
            )
        elif op == "twice":
            layers.append(
                Twice(nn.Conv2d(rest[0], rest[0], 1), _ACTIVATIONS[rest[1]]())
            )
        elif op == "batchnorm":
            layers.append(nn.BatchNorm2d(rest[0], eps=EPS))
        elif op == "groupnorm":
            layers.append(nn.GroupNorm(1, rest[0], eps=EPS))
        elif op == "instancenorm":
            layers.append(nn.InstanceNorm2d(rest[0], eps=EPS, affine=True))
        elif op == "maxpool":
            layers.append(nn.MaxPool2d(2, 1))
        elif op == "avgpool":
            layers.append(nn.AvgPool2d(2, 1))
        elif op == "dropout":
            layers.append(nn.Dropout2d(0.5) if rest[0] else nn.Dropout(0.5))
        elif op == "upsample":
            layers.append(nn.Upsample(scale_factor=2, mode=rest[0]))
        elif op == "global":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        elif op == "flatten":
            layers.append(nn.Flatten())
        elif op == "linear":
            layers.append(nn.Linear(*rest))
        else:
            layers.append(_ACTIVATIONS[op]())
    return nn.Sequential(*layers)


@st.composite
def conv_nets(draw, most=40):
    """A case without a count; at most so many parameters."""
    # One channel through a 1 x 1 kernel into a norm would leave its weights a sign.
    channels, size, steps = 2, 3, []
    for _ in range(draw(st.integers(1, 5))):
        op = draw(
            st.sampled_from(
                ["conv"] * 4
                + ["relu", "leaky", "leaky", "tanh", "maxpool", "avgpool", "dropout"]
                + ["batchnorm", "groupnorm", "instancenorm"]
                + ["transposed", "residual", "twice", "upsample"]
            )
        )
        if op == "conv":
            kernel = draw(st.sampled_from([1, 1, 2]))
            padding = draw(st.sampled_from([0, 0, 1])) if kernel == 2 else 0
            grouped = channels == 2 and kernel == 2 and draw(st.booleans())
            groups = 2 if grouped else 1
            m = draw(st.sampled_from([2, 3])) if groups == 1 else 2
            if kernel - 2 * padding > size:
                continue
            bias = draw(st.booleans())
            steps.append((op, channels, m, kernel, padding, groups, bias))
            channels, size = m, size - kernel + 1 + 2 * padding
        elif op == "transposed":
            if size > 3:
                continue
            steps.append((op, channels, 2, draw(st.booleans())))
            channels, size = 2, size + 1
        elif op in {"maxpool", "avgpool"}:
            if size < 2:
                continue
            steps.append((op,))
            size -= 1
        elif op in {"residual", "twice"}:
            steps.append((op, channels, draw(st.sampled_from(["leaky", "tanh"]))))
        elif op == "upsample":
            if size > 2:
                continue
            steps.append((op, draw(st.sampled_from(["nearest", "bilinear"]))))
            size *= 2
        elif op == "dropout":
            steps.append((op, draw(st.booleans())))
        elif op.endswith("norm"):
            # What is normalised needs several values that differ: after a ReLU or a
            # max-pool they may all be one.
            flat = {"relu", "maxpool"} & {step[0] for step in steps}
            # The gain of a channel that is normalised again is constant by itself,
            # which its square and that of its shift, constant too, say as well.
            kept = [s[0] for s in steps if s[0] not in {"avgpool", "dropout"}]
            again = {"batchnorm", "instancenorm"} >= {op, *kept[-1:]} and bool(kept)
            if size < 2 or channels < 2 or flat or again:
                continue
            steps.append((op, channels))
        else:
            steps.append((op,))
    # Copies of one position, and taps that all see the whole image, have equal
    # gradients: no upsampling before flatten, an activation before the mean.
    if draw(st.booleans()) or ("upsample", "nearest") in steps:
        steps += [("leaky",), ("global",), ("linear", channels, 2)]
    else:
        steps += [("flatten",), ("linear", channels * size * size, 2)]
    program = tuple(steps)
    assume(sum(p.numel() for p in build(program).parameters()) <= most)
    assume(any(step[0] == "conv" for step in steps))
    text = "; ".join(" ".join(map(str, step)) for step in program)
    return Case(text, lambda: build(program), features(2, 3, 3, batch=4), -1)

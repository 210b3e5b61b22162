"""`stable_rank_` and `adjust_`: one weight, in place, as `torch.nn.init` does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.init.blocks import Layout, check_writable, cut
from spectrank.init.control.requests import target_rank
from spectrank.init.scale import Mode, Norm, checked_gain, checked_scale, resolved_gain
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.make import OWN_STABLE_RANK, ensemble
from spectrank.linalg.haar import check_generator
from spectrank.linalg.stable_rank import KeptNorm, StableRankMethod, with_stable_rank


def stable_rank_(
    tensor: Tensor,
    stable_rank: float | None = None,
    *,
    fraction: float | None = None,
    spectrum: str | None = None,
    profile: Tensor | Sequence[float] | None = None,
    norm: Norm = "frobenius",
    gain: float | str = "relu",
    mode: Mode = "fan_in",
    sigma: float | str | None = None,
    layout: Layout = "unfolded",
    groups: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fill a weight with a random matrix of a prescribed stable rank, in place.

    :math:`\|W\|_F^2 / \|W\|_2^2 = r`, W bi-orthogonally invariant (`sr.linalg.ensemble`
    lists the spectra). Met to 1e-10 in float64, 1e-4 in float32, 2e-2 in bfloat16 and
    float16, which are drawn in float32. Means of the signal depend on the stable rank
    and the norm, its fluctuations on the participation ratio. Nothing is written, and
    no number drawn, if the request is refused. Laws and defaults are this library's
    own choice; those of Georgiev et al. (2021), arXiv:2110.02333, are not public.

    Scales. ``frobenius``: :math:`\|W\|_F^2 = g^2 mn/\mathrm{fan}`, so the mean signal
    does not depend on the stable rank; He, LeCun and Glorot by ``gain`` and ``mode``.
    ``spectral``: :math:`\|W\|_2 = \sigma`; the mean signal is linear in the stable
    rank, unless sigma is ``depth-critical``, :math:`g\sqrt{m/r}`, which is
    ``frobenius`` with ``fan_in`` by another name. Of ``gaussian`` the norms are random:
    sigma is that of the factor on a matrix whose :math:`\|W\|_2` is about one, so that
    :math:`\|W\|_2 = \sigma` up to its fluctuations. ``gain="typical"`` keeps the mean
    *logarithm* of the signal through relu (``typical-linear`` without): exact, but for
    ``slice`` and ``temper`` a mean over drawn singular values, whose standard error is
    3e-3 at a width of 3 and below 1e-3 from 16 on.

    Source (derived): tests/init/test_init_fill.py.

    Args:
        tensor: (out, in), or a kernel (out, in / groups, *size) of Conv1d to Conv3d;
            float64, float32, bfloat16 or float16, any strides, on any device.
        stable_rank: In [1, min(m, n)] of each matrix. Left out for ``orthogonal``,
            ``gaussian`` and a profile.
        fraction: The same as a share of min(m, n), in (0, 1]; below 1 / min(m, n) it
            means 1.
        spectrum: One of ``sr.linalg.SPECTRA``; ``mp-spike`` by default.
        profile: Descending singular values in place of a spectrum, up to scale.
        norm: ``frobenius`` or ``spectral``.
        gain: A number, the activation that follows (sqrt 2 for ``relu``; see
            `spectrank.random_nets.activation_gain`), ``typical`` or
            ``typical-linear``.
        mode: ``fan_in``, ``fan_out`` (out / groups times kernel positions: the backward
            signal) or ``fan_avg``.
        sigma: Spectral norm, or ``depth-critical``; by default
            :math:`g(\sqrt m + \sqrt n)/\sqrt{\mathrm{fan}}`, that of a large Gaussian.
        layout: Of a kernel: ``unfolded``, (out / groups) x (in / groups * positions);
            or ``delta``, (out / groups) x (in / groups) at the centre, zeros elsewhere,
            sizes odd. The stable rank is that of this matrix, not of the convolution
            operator, unless ``delta``.
        groups: Of the convolution; each group's block is a matrix of its own.
        generator: Source of randomness, on any device. Only where it is None the
            global one of the tensor's device is used, as by `torch.nn.init`.

    Returns:
        The same tensor.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If there is no such matrix, or the tensor has no values to fill,
            or a draw of ``mp-spike`` is refused.
        ShapeError: If the tensor is no weight, or the profile does not fit.
        UnknownNameError: If there is no such spectrum, norm, mode, gain or layout.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(64, 128, dtype=torch.float64)
        >>> g = torch.Generator().manual_seed(0)
        >>> W = stable_rank_(layer.weight, 16, spectrum="flat", generator=g)
        >>> s = torch.linalg.svdvals(W.detach())
        >>> round(float((s / s[0]).square().sum()), 9), round(float(s @ s), 9)
        (16.0, 256.0)
    """  # noqa: DOC502 - some are raised by the functions called
    tensor = check_writable(tensor)
    blocks = cut(tuple(tensor.shape), groups=groups, layout=layout)
    scale = checked_scale(norm, mode, sigma)
    checked_gain(gain, scale, default="relu")
    m, n = blocks[0].m, blocks[0].n
    e = _ensemble(m, n, stable_rank, fraction, spectrum, profile)
    size = scale.spectral_norm(e, resolved_gain(gain), positions=blocks[0].positions)
    num = len(blocks) if len(blocks) > 1 else None
    drawn = e.sample(
        random_source(generator, tensor.device),
        spectral_norm=size,
        num=num,
        dtype=tensor.dtype,
        device=tensor.device,
    )
    for block, matrix in zip(blocks, drawn.reshape(-1, m, n), strict=True):
        block.write(tensor, matrix)
    return tensor


def adjust_(
    tensor: Tensor,
    stable_rank: float,
    *,
    method: StableRankMethod = "auto",
    norm: KeptNorm | None = None,
    groups: int = 1,
) -> Tensor:
    """Raise or lower the stable rank of an existing weight, in place.

    `with_stable_rank` on each matrix of the weight: singular vectors stay. Nothing is
    written if one of them is refused. In bfloat16 and float16 the target is met to
    about 2e-2.
    Source (derived): tests/linalg/test_stable_rank.py.

    Args:
        tensor: (out, in), or a kernel (out, in / groups, *size), unfolded.
        stable_rank: Target, in [1, rank].
        method: ``auto``, ``optimal``, ``keep``, ``clip`` or ``temper``.
        norm: ``keep-frobenius`` or ``keep-spectral``; None leaves the scale that the
            method gives.
        groups: Of the convolution; each group's block is a matrix of its own.

    Returns:
        The same tensor.

    Raises:
        ArgumentTypeError: If the tensor is none of real numbers.
        DomainError: If a matrix cannot be taken there.
        ShapeError: If the tensor is no weight.
        UnknownNameError: If there is no such method or norm.

    Example:
        >>> import torch
        >>> W = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
        >>> adjust_(W, 2.25, method="clip", norm="keep-spectral").diagonal().tolist()
        [4.0, 4.0, 2.0]
    """  # noqa: DOC502 - some are raised by the functions called
    tensor = check_writable(tensor)
    blocks = cut(tuple(tensor.shape), groups=groups)
    changed = [
        with_stable_rank(block.read(tensor), stable_rank, method=method, norm=norm)
        for block in blocks
    ]
    for block, matrix in zip(blocks, changed, strict=True):
        block.write(tensor, matrix)
    return tensor


def random_source(
    generator: torch.Generator | None, device: torch.device
) -> torch.Generator:
    """The generator to draw from.

    Args:
        generator: The caller's.
        device: Of the tensor that is filled.

    Returns:
        The caller's, or the global one of the device.

    Raises:
        ArgumentTypeError: If it is no generator.
        DomainError: If there is no global one for the device.
    """  # noqa: DOC502 - the first is raised by the function called
    if generator is not None:
        return check_generator(generator)
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    raise DomainError(
        f"without a generator the global one of the CPU or a CUDA device is used, got "
        f"a tensor on {device}; pass generator=torch.Generator()"
    )


def _ensemble(
    m: int,
    n: int,
    stable_rank: float | None,
    fraction: float | None,
    spectrum: str | None,
    profile: Tensor | Sequence[float] | None,
) -> Ensemble:
    own = profile is not None or spectrum in OWN_STABLE_RANK
    if own and fraction is None:
        try:
            return ensemble(
                m, n, stable_rank=stable_rank, spectrum=spectrum, profile=profile
            )
        except DomainError as error:
            if spectrum != "orthogonal" or stable_rank is None:
                raise
            raise DomainError(
                f"spectrum {spectrum!r} has a stable rank of its own, {min(m, n)} for "
                f"a {m} x {n} matrix, got stable_rank={stable_rank!r}; leave it out"
            ) from error
    # A wrong name before a wrong number.
    ensemble(m, n, stable_rank=1.0, spectrum=None if own else spectrum)
    r = target_rank(stable_rank, fraction, m, n)
    return ensemble(m, n, stable_rank=r, spectrum=spectrum, profile=profile)

"""What is known of ATen's operators: which kind of step each of them is.

An operator that stands in none of these tables is a node of kind ``unknown``.
"""

from __future__ import annotations

# The value passes unchanged; `to` and its relatives only where the dtype stays.
SAME = frozenset(
    """
    alias clone contiguous lift lift_fresh lift_fresh_copy positive view_as
    resolve_conj resolve_neg requires_grad
    """.split()  # noqa: SIM905
)
CASTS = frozenset(["to", "_to_copy", "type_as"])
ASSERTIONS = frozenset(
    """
    _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range
    sym_constrain_range_for_size
    """.split()  # noqa: SIM905
)
DROPOUTS = frozenset(
    ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"]
)
# Each entry of the result depends on the entries at the same place only.
ELEMENTWISE = frozenset(
    """
    relu relu6 gelu silu mish tanh sigmoid leaky_relu elu selu celu softplus hardtanh
    hardswish hardsigmoid hardshrink softshrink logsigmoid log_sigmoid threshold
    rrelu abs exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square pow neg clamp
    clamp_min clamp_max sin cos tan asin acos atan sinh cosh erf erfc reciprocal sign
    sgn floor ceil round trunc frac nan_to_num isnan isinf isfinite logical_not
    bitwise_not masked_fill where maximum minimum fmax fmin max_other min_other lerp
    ge gt le lt eq ne logical_and logical_or logical_xor bitwise_and bitwise_or
    bitwise_xor remainder fmod floor_divide atan2 tril triu heaviside copysign
    detach addcmul addcdiv bernoulli
    """.split()  # noqa: SIM905
)
# Entries are moved, repeated or left out, never changed.
RESHAPES = frozenset(
    """
    view reshape _unsafe_view _reshape_alias flatten unflatten squeeze unsqueeze
    reshape_as permute transpose t numpy_T mT mH H adjoint swapaxes swapdims movedim
    moveaxis slice narrow select chunk split split_with_sizes unsafe_chunk
    unsafe_split tensor_split unbind expand expand_as broadcast_to repeat tile
    repeat_interleave cat stack hstack vstack constant_pad_nd pad reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d flip roll rot90 index index_select gather take_along_dim
    pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold diagonal as_strided
    masked_select
    """.split()  # noqa: SIM905
)
POOLS = frozenset(
    """
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    mean sum amax amin max min prod var std logsumexp linalg_vector_norm norm median
    any all argmax argmin count_nonzero
    """.split()  # noqa: SIM905
)
# Pools that are linear in their input.
LINEAR_POOLS = frozenset(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    mean sum
    """.split()  # noqa: SIM905
)
NORMS = frozenset(
    ["batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"]
)
SOFTMAXES = frozenset(["softmax", "log_softmax"])
# Results that hold nothing of the input but its shape, dtype and device.
FACTORIES = frozenset(
    """
    arange zeros ones full empty eye linspace scalar_tensor zeros_like ones_like
    full_like empty_like new_zeros new_ones new_full new_empty rand randn randint
    randperm rand_like randn_like tril_indices triu_indices
    """.split()  # noqa: SIM905
)
# Elementwise maps that are linear and act on every entry alike.
SCALINGS = frozenset(["mul", "div", "neg"])

"""Which rule an operation follows when widened channels meet it; what has no rule blocks."""

from __future__ import annotations

from reborn_nas.backbone.widen import flow, reshaping
from reborn_nas.backbone.widen.flow import Rule

_POINTWISE = """
    relu relu6 leaky_relu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink softshrink
    tanhshrink sigmoid tanh softplus softsign logsigmoid threshold abs neg exp expm1 log log1p sqrt rsqrt square
    reciprocal sign erf sin cos round floor ceil clamp clamp_min clamp_max clip nan_to_num logical_not invert bernoulli
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout
    contiguous to float half bfloat16 double type type_as clone detach requires_grad cpu cuda identity
    zeros_like ones_like rand_like randn_like empty_like full_like
"""
_BROADCASTING = """
    add sub rsub mul multiply div divide truediv true_divide floordiv pow maximum minimum where addcmul addcdiv lerp
    eq ne lt le gt ge logical_and logical_or
"""
_POOLING = """
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d pad interpolate upsample upsample_bilinear upsample_nearest
"""
_REDUCING = "mean sum amax amin prod std var var_mean std_mean logsumexp any all max min norm nanmean median"
_FRESH = "new_empty new_zeros new_ones new_full new_tensor"

# where an operation's dimensions stand among its arguments, where not second
_DIM_PLACES = {"norm": 2}

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), flow.pass_through),
    **dict.fromkeys(_BROADCASTING.split(), flow.elementwise),
    **dict.fromkeys(_POOLING.split(), flow.pooled),
    **{
        name: flow.along_dimensions(_DIM_PLACES.get(name, 1), "dim", keeps=False)
        for name in _REDUCING.split()
    },
    **{name: flow.along_dimensions(1, "dim", keeps=True) for name in ("softmax", "log_softmax", "cumsum")},
    "normalize": flow.along_dimensions(2, "dim", keeps=True),
    **dict.fromkeys(_FRESH.split(), flow.made_new),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), flow.convolution),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), flow.transposed_convolution
    ),
    "linear": flow.linear,
    "batch_norm": flow.batch_norm,
    "layer_norm": flow.layer_norm,
    "prelu": flow.prelu,
    **dict.fromkeys(("cat", "concat", "concatenate"), flow.concatenation),
    "stack": flow.stacking,
    **dict.fromkeys(("matmul", "bmm"), flow.matrix_product),
    **dict.fromkeys(("view", "reshape", "flatten"), reshaping.viewed),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "T", "mT"), reshaping.permuted),
    **dict.fromkeys(("squeeze", "unsqueeze"), reshaping.squeezed),
    "unflatten": reshaping.unflattened,
    **dict.fromkeys(("expand", "expand_as"), reshaping.expanded),
    **dict.fromkeys(
        ("split", "chunk", "tensor_split", "unbind", "narrow", "select", "index_select"), reshaping.divided
    ),
    **dict.fromkeys(("roll", "flip"), reshaping.rolled),
    "getitem": reshaping.indexed,
}

# operations that block, in words
BLOCKERS = {
    "group_norm": "a group norm, whose statistics mix channels",
    "local_response_norm": "a norm over neighbouring channels",
    "einsum": "a matrix product (attention)",
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
    "pixel_shuffle": "a pixel shuffle of the channels",
    "channel_shuffle": "a channel shuffle",
    "setitem": "a write into a part of it",
    "glu": "a split of the channels (GLU)",
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "a recurrent layer"),
}

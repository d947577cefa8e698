"""The table of torch's operations: the properties that tracing, sites, widening and counting use.

An operation is named as in the trace: the function's name without underscores at its ends (`relu_` is `relu`, `__add__`
is `add`). `operation` looks it up; to support a new one, add it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Operation:
    """The properties of an operation: flags, then names of rules. An unknown operation has none of them.

    Args:
        activation: it is an activation; it is pointwise.
        squashes: it bounds its result, as a gate does; it also bends and bounds.
        pointwise: it works elementwise and keeps the shape.
        bounds: it may bound a factor in a gate written out by a module.
        bends: it makes a formula nonlinear.
        compares: its result is boolean or a sign; it also bends.
        chooses: it selects one of several numbers at each place; it also bends and joins.
        joins: it may be the last operation of a formula.
        broadcasts: it is arithmetic of two maps with broadcasting; it is also pointwise.
        plain: it may occur in a formula although it is neither pointwise nor bends.
        in_hard_swish: it may be a part of a hard-swish written out.
        recognised: a formula that computes the same gets its name; `torch.nn.functional` or torch has it.
        module: `torch.nn` has a module that computes it.
        method: tensors have it as a method that takes numbers: `x.clamp(0)`.
        inplace_flag: its `inplace` may be given by position.
        quick: on the meta device an empty tensor of the input's shape replaces it.
        attribute: it is an attribute of tensors, such as `x.T`.
        reflected: its operator has a reflected form, such as `__rsub__`.
        makes: its result holds no numbers of its inputs.
        from_numbers: it makes a tensor from numbers outside of torch.
        view: in eval mode its result shares the memory of its input.
        reshapes: it keeps the numbers of a stored parameter.
        lends_shape: only the shape or type of its second tensor is used.
        spreads: it repeats its input over more places.
        resizes: it resamples its input.
        axis: the channel dimension of its result, for any input (`sites.axes`).
        moves: how the dimensions of its input move (`trace.dims`); they do not move without a rule.
        widen: how widened channels pass (`widen.rules`); none pass without a rule.
        blocks: what stops widened channels, as text.
        macs: how its multiply-accumulates are counted (`cost`).
        dim_place: the position among its arguments of the dimensions over which it runs.
    """

    activation: bool = False
    squashes: bool = False
    pointwise: bool = False
    bounds: bool = False
    bends: bool = False
    compares: bool = False
    chooses: bool = False
    joins: bool = False
    broadcasts: bool = False
    plain: bool = False
    in_hard_swish: bool = False
    recognised: bool = False
    module: bool = False
    method: bool = False
    inplace_flag: bool = False
    quick: bool = False
    attribute: bool = False
    reflected: bool = False
    makes: bool = False
    from_numbers: bool = False
    view: bool = False
    reshapes: bool = False
    lends_shape: bool = False
    spreads: bool = False
    resizes: bool = False
    axis: str = ""
    moves: str = ""
    widen: str = ""
    blocks: str = ""
    macs: str = ""
    dim_place: int = 1

    @property
    def in_formula(self) -> bool:
        """Whether it may be a step of a formula: one number at a time, no change of shape."""
        return (self.pointwise or self.bends or self.plain) and self.moves != "regrouped"


OPERATIONS: dict[str, Operation] = {}
_UNKNOWN = Operation()
_IMPLIED = {
    "activation": ("pointwise",),
    "squashes": ("bends", "bounds"),
    "compares": ("bends",),
    "chooses": ("bends", "joins"),
    "broadcasts": ("pointwise", "joins"),
}
# families of operations whose results have their channels in dimension 1: (B, C, …)
_CHANNELS_SECOND = (
    *("conv", "batch_norm", "group_norm", "instance_norm", "local_response_norm", "max_pool", "avg_pool"),
    *("adaptive_", "interpolate", "upsample", "lp_pool", "pixel_"),
)
_CLASSES = {name.lower(): name for name in nn.modules.activation.__all__}


@lru_cache(maxsize=4096)
def operation(name: str) -> Operation:
    """Look up the properties of an operation."""
    found = OPERATIONS.get(name)
    if found is None:
        return Operation(axis="first") if name.startswith(_CHANNELS_SECOND) else _UNKNOWN
    return found


def module_class(name: str) -> str:
    """The `torch.nn` class that computes an operation with the flag `module`: `leaky_relu` → `LeakyReLU`."""
    return _CLASSES[name.replace("_", "")]


def _add(names: str, flags: str = "", **rules: Any) -> None:
    given = dict.fromkeys(flags.split(), True)
    for flag in tuple(given):
        given.update(dict.fromkeys(_IMPLIED.get(flag, ()), True))
    fields: dict[str, Any] = {**given, **rules}
    for name in names.split():
        if name in OPERATIONS:
            raise ValueError(f"{name!r} is twice in the table of operations")
        OPERATIONS[name] = Operation(**fields)


# fmt: off
# activations
_add("prelu", "activation", widen="prelu")
_add("elu hardswish mish relu silu", "activation inplace_flag module quick recognised", widen="same")
_add("celu rrelu", "activation inplace_flag module", widen="same")
_add("selu", "activation inplace_flag module recognised", widen="same")
_add("gelu", "activation module quick recognised", widen="same")
_add("leaky_relu", "activation inplace_flag method module quick", widen="same")
_add("relu6", "activation bends inplace_flag module quick recognised", widen="same")
_add("softplus", "activation module recognised", widen="same")

# bounded results
_add("glu", "squashes", blocks="a split of the channels (GLU)")
_add("softmin", "squashes")
_add("log_softmax softmax", "squashes", widen="along")
_add("sigmoid tanh", "pointwise squashes recognised", widen="same")
_add("hardsigmoid", "inplace_flag pointwise squashes recognised", widen="same")
_add("logsigmoid", "module squashes", widen="same")

# pointwise, of one map
_add(
    "bernoulli cpu cuda double feature_alpha_dropout identity invert nan_to_num rand_like randn_like "
    "requires_grad", widen="same",
)
_add("clamp_max cos log log1p sin sqrt square", "pointwise", widen="same")
_add("alpha_dropout dropout1d dropout3d feature_dropout", "view", widen="same")
_add("empty_like full_like ones_like zeros_like", "makes", widen="same")
_add("logical_not reciprocal rsqrt type", "plain", widen="same")
_add("abs exp expm1", "bends pointwise", widen="same")
_add("ceil floor round", "bends", widen="same")
_add("hardshrink softshrink tanhshrink", "module", widen="same")
_add("clone half", "pointwise reshapes", widen="same")
_add("contiguous float", "pointwise reshapes view", widen="same")
_add("dropout dropout2d", "inplace_flag view", widen="same")
_add("to type_as", "pointwise reshapes lends_shape view", widen="same")
_add("bfloat16", "reshapes", widen="same")
_add("clamp", "bends bounds in_hard_swish method pointwise", widen="same")
_add("clamp_min", "method pointwise", widen="same")
_add("clip", "bends in_hard_swish pointwise", widen="same")
_add("detach", "plain reshapes view", widen="same")
_add("erf", "bends bounds pointwise", widen="same")
_add("hardtanh", "bends bounds in_hard_swish inplace_flag module pointwise", widen="same")
_add("neg", "pointwise quick", widen="same")
_add("sign", "compares pointwise", widen="same")
_add("softsign", "module pointwise", widen="same")
_add("threshold", "inplace_flag pointwise", widen="same")

# arithmetic of several maps
_add("addcdiv addcmul divide eq floordiv lerp logical_and logical_or multiply ne true_divide", widen="elementwise")
_add("add div mul sub truediv", "broadcasts reflected", widen="elementwise")
_add("ge gt le lt", "compares pointwise", widen="elementwise")
_add("minimum where", "chooses pointwise", widen="elementwise")
_add("pow", "pointwise reflected", widen="elementwise")
_add("rsub", "pointwise", widen="elementwise")
_add("maximum", "bounds chooses method pointwise", widen="elementwise")

# layers, reductions and moves of dimensions, which widened channels pass by a rule
_add("cumsum", widen="along")
_add("normalize", widen="along", dim_place=2)
_add("batch_norm", axis="first", widen="batch_norm")
_add("cat concat concatenate", widen="concatenation")
_add("conv1d conv2d conv3d", axis="first", widen="convolution", macs="convolution")
_add("narrow", "view", widen="divided")
_add("chunk split tensor_split", "view", widen="divided", dim_place=2)
_add("index_select", widen="divided")
_add("select unbind", "view", moves="dropped", widen="divided")
_add("expand", "reshapes spreads view", moves="expanded", widen="expanded")
_add("expand_as", "reshapes lends_shape spreads view", moves="expanded", widen="expanded")
_add("getitem", "reshapes view", moves="indexed", widen="indexed")
_add("layer_norm", axis="norm_last", widen="layer_norm")
_add("linear", axis="last", widen="linear", macs="product")
_add("new_empty new_full new_ones new_tensor new_zeros", "makes", widen="made_new")
_add("bmm matmul", axis="product", widen="matrix_product", macs="product")
_add("T mT", "attribute view", moves="permuted", widen="moved")
_add("swapaxes swapdims", "view", moves="permuted", widen="moved")
_add("permute transpose", "reshapes view", moves="permuted", widen="moved")
_add("pad", widen="pooled")
_add(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d max_pool1d max_pool2d "
    "max_pool3d upsample_bilinear upsample_nearest", axis="first", widen="pooled",
)
_add("interpolate", "reshapes resizes", axis="first", widen="pooled")
_add("upsample", "resizes", axis="first", widen="pooled")
_add("all any median nanmean prod std_mean var_mean", moves="reduced", widen="reduced")
_add("amax amin logsumexp mean std sum var", moves="reduced", widen="reduced")
_add("max", "bounds chooses pointwise", moves="reduced", widen="reduced")
_add("min", "chooses pointwise", moves="reduced", widen="reduced")
_add("norm", moves="reduced", widen="reduced", dim_place=2)
_add("flip", widen="rolled")
_add("roll", widen="rolled", dim_place=2)
_add("squeeze", "reshapes view", moves="squeezed", widen="moved")
_add("unsqueeze", "reshapes view", moves="unsqueezed", widen="moved")
_add("stack", moves="stacked", widen="stacking")
_add(
    "conv_transpose1d conv_transpose2d conv_transpose3d", axis="first", widen="transposed", macs="transposed",
)
_add("unflatten", "view", moves="unflattened", widen="unflattened")
_add("flatten", "reshapes view", moves="regrouped", widen="viewed")
_add("reshape view", "pointwise reshapes view", moves="regrouped", widen="viewed")

# operations that stop widened channels
_add("gru lstm rnn_relu rnn_tanh", blocks="a recurrent layer")
_add("channel_shuffle", blocks="a channel shuffle")
_add("einsum", macs="einsum", blocks="a matrix product (attention)")
_add("multi_head_attention_forward", blocks="attention")
_add("setitem", "joins plain", blocks="a write into a part of it")
_add("group_norm", axis="first", blocks="a group norm, whose statistics mix channels")
_add("local_response_norm", axis="first", blocks="a norm over neighbouring channels")
_add("pixel_shuffle", axis="first", blocks="a pixel shuffle of the channels")
_add("scaled_dot_product_attention", axis="last", macs="attention", blocks="attention")

# operations that widened channels do not meet, or do not pass since there is no rule
_add("alias as_strided broadcast_to diagonal moveaxis movedim ravel split_with_sizes t", "view")
_add("empty full ones scalar_tensor zeros", "makes")
_add("H imag mH real", "attribute")
_add("asarray from_numpy frombuffer", "from_numbers")
_add("repeat repeat_interleave tile", "spreads")
_add("addmm baddbmm", macs="added_product")
_add("as_tensor tensor", "from_numbers makes")
_add("atan", "pointwise")
_add("bool", "plain")
_add("data", "attribute plain")
_add("heaviside", "compares")
_add("masked_fill", "bends joins")
_add("mm", macs="product")
_add("bilinear embedding", axis="last")
_add("rms_norm", axis="norm_last")
_add("rmatmul", axis="product", macs="product")
_add("reshape_as", "lends_shape", moves="regrouped")
_add("view_as", "lends_shape view", moves="regrouped")
# fmt: on

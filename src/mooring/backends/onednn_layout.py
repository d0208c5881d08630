"""Optimize TorchScript for the CPU: convolutions and the linear layers of attention, in oneDNN's own layouts.

torch leaves the products of linear layers to MKL, which does not use 512-bit instructions on processors that are not
Intel's: oneDNN takes less than half the time there (docs/decisions/0028-linear-layers-through-onednn.md). A call of
oneDNN costs some 10 us more, which a layer that gets a single row does not gain back. Models with attention have a row
for every token, so only their linear layers are replaced.
"""

# ruff: noqa: SLF001 - torch has no public way to change a graph

from pathlib import Path
from typing import Any

import torch

# A smaller layer is as fast as it is: 256 by 256 with 64 rows took 42 us in place of 77, 128 by 128 18 in place of 20.
_MIN_WEIGHTS = 65_536
# oneDNN's layout of a weight is best for about so many rows; other numbers do no worse than without.
_ROWS = 512
_LAYER = "aten::_transformer_encoder_layer_fwd"
_ATTENTION = (_LAYER, "aten::scaled_dot_product_attention", "aten::softmax", "aten::_softmax")


def optimize_for_onednn(module: Any) -> Any | None:
    """Optimize a frozen model for this processor. Returns None, and leaves the model as it is, where it would gain nothing.

    Raises what torch raises, mostly ``RuntimeError``; the model may be changed in part then.
    """
    if _has_convolutions(module):
        return torch.jit.optimize_for_inference(module)
    if _mkl_is_slow() and _has_attention(module.graph):
        _expand_layers(module.graph)
        if _pack_linears(module.graph):
            return module
    return None


def _has_convolutions(module: Any) -> bool:
    """Whether a frozen model has convolutions and all its constants are 32-bit, which is what torch optimizes well."""
    kinds = {
        str(node.output().type().scalarType())
        for node in module.graph.findAllNodes("prim::Constant")
        if isinstance(node.output().type(), torch.TensorType)
    }
    return bool(
        module.graph.findNode("aten::_convolution") or module.graph.findNode("aten::conv2d")
    ) and kinds <= {
        "Float",
        "Long",
        "None",
    }


def _mkl_is_slow() -> bool:
    """Whether torch multiplies matrices with MKL on a processor for which MKL lacks its fastest instructions."""
    libraries: Any = torch.backends
    if not libraries.mkl.is_available() or not libraries.mkldnn.is_available():
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _has_attention(graph: Any) -> bool:
    """Whether the graph has attention, and no nested tensors, which torch handles by itself."""
    return any(graph.findNode(kind) for kind in _ATTENTION) and "nested" not in str(graph)


def _encoder_layer(
    x: torch.Tensor,
    width: int,
    heads: int,
    qkv: torch.Tensor,
    qkv_bias: torch.Tensor,
    out: torch.Tensor,
    out_bias: torch.Tensor,
    gelu: bool,
    norm_first: bool,
    epsilon: float,
    norm1: torch.Tensor,
    norm1_bias: torch.Tensor,
    norm2: torch.Tensor,
    norm2_bias: torch.Tensor,
    wide: torch.Tensor,
    wide_bias: torch.Tensor,
    narrow: torch.Tensor,
    narrow_bias: torch.Tensor,
    _mask: torch.Tensor | None,
    _mask_type: int | None,
) -> torch.Tensor:
    """One layer of an encoder without a mask, in the same steps as torch's fused operator."""
    rows, tokens = x.size(0), x.size(1)
    y = torch.layer_norm(x, [width], norm1, norm1_bias, epsilon) if norm_first else x
    y = torch._C._nn.linear(y, qkv, qkv_bias).reshape(rows, tokens, 3, heads, width // heads)
    y = y.permute(2, 0, 3, 1, 4)
    y = torch._C._nn.scaled_dot_product_attention(y[0], y[1], y[2]).transpose(1, 2)
    x = torch._C._nn.linear(y.reshape(rows, tokens, width), out, out_bias) + x
    if norm_first:
        y = torch.layer_norm(x, [width], norm2, norm2_bias, epsilon)
    else:
        x = torch.layer_norm(x, [width], norm1, norm1_bias, epsilon)
        y = x
    y = torch._C._nn.linear(y, wide, wide_bias)
    y = torch._C._nn.gelu(y) if gelu else torch.relu(y)
    y = torch._C._nn.linear(y, narrow, narrow_bias) + x
    return y if norm_first else torch.layer_norm(y, [width], norm2, norm2_bias, epsilon)


def _expand_layers(graph: Any) -> None:
    """Replace torch's fused operator for an encoder layer by its steps, so that the linear layers in it can be replaced.

    The operator stays where there is a mask, or where its weights are small.
    """
    for node in graph.findAllNodes(_LAYER):
        inputs = list(node.inputs())
        if _large_weight(inputs[3]) is None or any(
            not isinstance(mask.type(), torch.NoneType) for mask in inputs[-2:]
        ):
            return
    steps: Any = torch.jit.script(_encoder_layer).inlined_graph
    names = ", ".join(f"%{index}" for index in range(len(list(steps.inputs()))))
    pattern = f"graph({names}):\n  %layer : Tensor = {_LAYER}({names})\n  return (%layer)"
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(pattern, str(steps), graph)
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_dce(graph)


def _large_weight(weight: Any) -> torch.Tensor | None:
    """Return the weight of a linear layer where it is a constant of at least ``_MIN_WEIGHTS`` float32 numbers, else None."""
    tensor: torch.Tensor | None = weight.toIValue() if weight.node().kind() == "prim::Constant" else None
    if tensor is None or tensor.dtype is not torch.float32 or tensor.ndim != 2:
        return None
    return tensor if tensor.numel() >= _MIN_WEIGHTS else None


def _pack_linears(graph: Any) -> int:
    """Replace the large linear layers with constant weights by oneDNN's operator. Returns how many there were."""
    packed: dict[int, torch.Tensor] = {}  # by where a weight lies: layers may share one
    count = 0
    for node in graph.findAllNodes("aten::linear"):
        x, weight, bias = node.inputs()
        tensor = _large_weight(weight)
        if tensor is None:
            continue
        place = tensor.data_ptr()
        if place not in packed:
            packed[place] = torch.ops.mkldnn._reorder_linear_weight(tensor.detach().clone(), _ROWS)
        _replace_linear(graph, node, [x, packed[place], bias])
        count += 1
    torch._C._jit_pass_dce(graph)
    return count


def _replace_linear(graph: Any, node: Any, arguments: list[Any]) -> None:
    """Replace one linear layer by oneDNN's operator.

    Its packed weight is of a type that only this constant can hold.
    """
    x, packed, bias = arguments
    graph.setInsertPoint(node)
    constant = graph.insertNode(graph.create("prim::ConstantMKLDNNTensor", 1))
    constant.t_("value", packed)
    nothing = graph.insertNode(graph.create("prim::ListConstruct", 1)).output()
    nothing.setType(torch.ListType(torch.OptionalType(torch.NumberType.get())))
    none, algorithm = graph.insertConstant("none"), graph.insertConstant("")
    linear = graph.create(
        "mkldnn::_linear_pointwise", [x, constant.output(), bias, none, nothing, algorithm], 1
    )
    graph.insertNode(linear)
    linear.output().setType(node.output().type())
    node.output().replaceAllUsesWith(linear.output())
    node.destroy()

"""TorchScript optimize_for_onednn for speed on the CPU: convolutions, and the linear layers of attention, in oneDNN's own layouts.

torch leaves the products of linear layers to MKL, which has no instructions of 512 bits for processors that are not
Intel's: oneDNN takes less than half the time there (docs/decisions/0028-linear-layers-through-onednn.md). Calling it costs some
10 us, which a layer that gets a single row does not make good. Models with attention have a row for every token, so
only theirs are optimize_for_onednn.
"""

# ruff: noqa: SLF001 - torch has no public way to change a graph

from pathlib import Path
from typing import Any

import torch

# A smaller layer is as fast as it is: 256 by 256 with 64 rows took 42 us in place of 77, 128 by 128 18 in place of 20.
_WORTHWHILE = 65_536
# oneDNN's layout of a weight is best for about so many rows; other numbers do no worse than without.
_ROWS = 512
_LAYER = "aten::_transformer_encoder_layer_fwd"
_ATTENTION = (_LAYER, "aten::scaled_dot_product_attention", "aten::softmax", "aten::_softmax")


def optimize_for_onednn(module: Any) -> Any | None:
    """A frozen model in layouts that suit the processor; None where it gains nothing by that, and is left as it is.

    What torch refuses raises, mostly ``RuntimeError``: the model may be changed in part then.
    """
    if _has_convolutions(module):
        return torch.jit.optimize_for_inference(module)
    if _mkl_holds_back() and _attends(module.graph):
        _open_layers(module.graph)
        if _pack_linears(module.graph):
            return module
    return None


def _has_convolutions(module: Any) -> bool:
    """Whether a frozen model has the layers that gain, in 32 bits."""
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


def _mkl_holds_back() -> bool:
    """Whether torch calculates by MKL on a processor for which that has none of its best ways."""
    libraries: Any = torch.backends
    if not libraries.mkl.is_available() or not libraries.mkldnn.is_available():
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _attends(graph: Any) -> bool:
    """Whether there is attention, and nothing of lengths that differ within a batch: that is torch's own affair."""
    return any(graph.findNode(kind) for kind in _ATTENTION) and "nested" not in str(graph)


def _layer(
    x: torch.Tensor,
    width: int,
    heads: int,
    taken: torch.Tensor,
    taken_bias: torch.Tensor,
    given: torch.Tensor,
    given_bias: torch.Tensor,
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
    """A layer of an encoder without a mask, in the steps of which torch's operator is made."""
    rows, tokens = x.size(0), x.size(1)
    y = torch.layer_norm(x, [width], norm1, norm1_bias, epsilon) if norm_first else x
    y = torch._C._nn.linear(y, taken, taken_bias).reshape(rows, tokens, 3, heads, width // heads)
    y = y.permute(2, 0, 3, 1, 4)
    y = torch._C._nn.scaled_dot_product_attention(y[0], y[1], y[2]).transpose(1, 2)
    x = torch._C._nn.linear(y.reshape(rows, tokens, width), given, given_bias) + x
    if norm_first:
        y = torch.layer_norm(x, [width], norm2, norm2_bias, epsilon)
    else:
        x = torch.layer_norm(x, [width], norm1, norm1_bias, epsilon)
        y = x
    y = torch._C._nn.linear(y, wide, wide_bias)
    y = torch._C._nn.gelu(y) if gelu else torch.relu(y)
    y = torch._C._nn.linear(y, narrow, narrow_bias) + x
    return y if norm_first else torch.layer_norm(y, [width], norm2, norm2_bias, epsilon)


def _open_layers(graph: Any) -> None:
    """Put the steps in the place of torch's operator for a whole layer, whose products are its own affair.

    The operator keeps its place where there is a mask, or little to gain.
    """
    for node in graph.findAllNodes(_LAYER):
        inputs = list(node.inputs())
        if _large(inputs[3]) is None or any(
            not isinstance(mask.type(), torch.NoneType) for mask in inputs[-2:]
        ):
            return
    steps: Any = torch.jit.script(_layer).inlined_graph
    names = ", ".join(f"%{index}" for index in range(len(list(steps.inputs()))))
    pattern = f"graph({names}):\n  %layer : Tensor = {_LAYER}({names})\n  return (%layer)"
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(pattern, str(steps), graph)
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_dce(graph)


def _large(weight: Any) -> torch.Tensor | None:
    """The weight of a linear layer, where it is constant and worth it."""
    tensor: torch.Tensor | None = weight.toIValue() if weight.node().kind() == "prim::Constant" else None
    if tensor is None or tensor.dtype is not torch.float32 or tensor.ndim != 2:
        return None
    return tensor if tensor.numel() >= _WORTHWHILE else None


def _pack_linears(graph: Any) -> int:
    """Let oneDNN calculate the large linear layers with constant weights; how many that are."""
    packed: dict[int, torch.Tensor] = {}  # by where a weight lies: layers may share one
    count = 0
    for node in graph.findAllNodes("aten::linear"):
        x, weight, bias = node.inputs()
        tensor = _large(weight)
        if tensor is None:
            continue
        place = tensor.data_ptr()
        if place not in packed:
            packed[place] = torch.ops.mkldnn._reorder_linear_weight(tensor.detach().clone(), _ROWS)
        _replace(graph, node, [x, packed[place], bias])
        count += 1
    torch._C._jit_pass_dce(graph)
    return count


def _replace(graph: Any, node: Any, arguments: list[Any]) -> None:
    """Put oneDNN's operator in a linear layer's place. Its weight is of a kind that only this constant holds."""
    x, packed, bias = arguments
    graph.setInsertPoint(node)
    constant = graph.insertNode(graph.create("prim::ConstantMKLDNNTensor", 1))
    constant.t_("value", packed)
    nothing = graph.insertNode(graph.create("prim::ListConstruct", 1)).output()
    nothing.setType(torch.ListType(torch.OptionalType(torch.NumberType.get())))
    none, algorithm = graph.insertConstant("none"), graph.insertConstant("")
    made = graph.create(
        "mkldnn::_linear_pointwise", [x, constant.output(), bias, none, nothing, algorithm], 1
    )
    graph.insertNode(made)
    made.output().setType(node.output().type())
    node.output().replaceAllUsesWith(made.output())
    node.destroy()

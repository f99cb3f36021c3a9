"""An ONNX graph run node by node with PyTorch's eager operators, as the exported code runs them itself.

Generous, compared with the training code in evaluation mode: no module machinery lies between two operators, only one
Python call; and in the usual graph binary weights are ready matrices, which the training code makes in every call.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tools.peers.packages import PeersError, require

Attributes = Mapping[str, Any]
Values = list[Any]  # per input: a tensor's fixed content as a Python list or number, None if it is computed
Operator = Callable[..., Any]


def eager(model: Any) -> Callable[[Any], Any]:
    """A function from the graph's input tensor to its output tensor."""
    torch, numpy_helper = require("torch"), require("onnx.numpy_helper")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    last = {name: i for i, node in enumerate(model.graph.node) for name in node.input}
    steps = []
    for i, node in enumerate(model.graph.node):
        attributes = {a.name: require("onnx.helper").get_attribute_value(a) for a in node.attribute}
        values = [arrays[name].tolist() if name in arrays else None for name in node.input]
        dead = [name for name in set(node.input) if name and last[name] == i and name not in arrays]
        steps.append((OPERATORS[node.op_type](torch, attributes, values), list(node.input), node.output[0], dead))
    source, target = model.graph.input[0].name, model.graph.output[0].name

    def run(pixels: Any) -> Any:
        tensors = {"": None, source: pixels}
        for operator, inputs, output, dead in steps:
            tensors[output] = operator(*[constants[n] if n in constants else tensors[n] for n in inputs])
            for name in dead:  # memory is used again, as in a module whose variables go out of scope
                del tensors[name]
        return tensors[target]

    return run


# ------------------------------------------------------------------------------------------------------- operators
# Each takes torch, a node's attributes and its fixed inputs, and returns the function to call on its tensors.


def _plain(name: str) -> Callable[[Any, Attributes, Values], Operator]:
    """An operator of the same meaning in torch, without attributes."""
    return lambda torch, _attributes, _values: getattr(torch, name)


def _convolution(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    padding = _even(attributes.get("pads", (0, 0, 0, 0)))
    stride, dilation = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    groups = attributes.get("group", 1)
    return lambda x, weight, bias=None: torch.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _even(pads: Any) -> list[int]:
    """Padding that is the same on both sides of an axis, as torch wants it."""
    half = len(pads) // 2
    if list(pads[:half]) != list(pads[half:]):
        raise PeersError(f"padding {list(pads)} differs between the sides; PyTorch's operators pad both alike")
    return list(pads[:half])


def _max_pool(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    kernel, stride, padding = attributes["kernel_shape"], attributes["strides"], _even(attributes["pads"])
    return lambda x: torch.nn.functional.max_pool2d(x, kernel, stride, padding)


def _average_pool(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    kernel, stride = attributes["kernel_shape"], attributes["strides"]
    padding, counted = _even(attributes.get("pads", (0, 0, 0, 0))), bool(attributes.get("count_include_pad", 0))
    pool = torch.nn.functional.avg_pool2d
    return lambda x: pool(x, kernel, stride, padding, count_include_pad=counted)


def _batch_norm(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    epsilon, norm = attributes["epsilon"], torch.nn.functional.batch_norm
    return lambda x, weight, bias, mean, variance: norm(x, mean, variance, weight, bias, eps=epsilon)


def _layer_norm(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    epsilon, norm = attributes["epsilon"], torch.nn.functional.layer_norm
    return lambda x, weight, bias: norm(x, weight.shape, weight, bias, epsilon)


def _prelu(torch: Any, _attributes: Attributes, values: Values) -> Operator:
    """torch's own takes one slope per channel of axis 1, which is where rows and maps have their channels."""
    slope = torch.tensor(np.ravel(values[1]), dtype=torch.float32)
    return lambda x, _slope: torch.nn.functional.prelu(x, slope)


def _linear(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    if attributes["transB"] != 1:
        raise PeersError("Gemm with a matrix [K, O], expected [O, K], as PyTorch's linear layer has it")
    return torch.nn.functional.linear


def _softmax(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    axis = attributes["axis"]
    return lambda x: torch.softmax(x, axis)


def _clip(_torch: Any, _attributes: Attributes, values: Values) -> Operator:
    return lambda x, _low, _high: x.clamp(values[1], values[2])


def _reshape(_torch: Any, _attributes: Attributes, values: Values) -> Operator:
    if 0 in values[1]:
        raise PeersError(f"Reshape to {list(values[1])}: a 0, which keeps a dimension, is not supported")
    return lambda x, _shape: x.reshape(values[1])


def _transpose(_torch: Any, attributes: Attributes, _values: Values) -> Operator:
    permutation = list(attributes["perm"])
    return lambda x: x.permute(permutation)


def _expand(_torch: Any, _attributes: Attributes, values: Values) -> Operator:
    return lambda x, _shape: x.expand(values[1])


def _concat(torch: Any, attributes: Attributes, _values: Values) -> Operator:
    axis = attributes["axis"]
    return lambda *tensors: torch.cat(tensors, axis)


def _slice(_torch: Any, _attributes: Attributes, values: Values) -> Operator:
    (start,), (stop,), (axis,) = values[1:]
    return lambda x, *_bounds: x.narrow(axis, start, stop - start)


def _mean(_torch: Any, attributes: Attributes, _values: Values) -> Operator:
    axes, keep = list(attributes["axes"]), bool(attributes["keepdims"])
    return lambda x: x.mean(axes, keepdim=keep)


def _maximum(_torch: Any, attributes: Attributes, _values: Values) -> Operator:
    axes = list(attributes["axes"])
    return lambda x: x.amax(axes, keepdim=True)


def _resize(torch: Any, _attributes: Attributes, values: Values) -> Operator:
    scales = values[2][2:]
    return lambda x, *_: torch.nn.functional.interpolate(x, scale_factor=scales, mode="nearest")


def _to_float(_torch: Any, _attributes: Attributes, _values: Values) -> Operator:
    return lambda x: x.float()


def _identity(_torch: Any, _attributes: Attributes, _values: Values) -> Operator:
    return lambda x: x


OPERATORS: dict[str, Callable[[Any, Attributes, Values], Operator]] = {
    "Abs": _plain("abs"),
    "Add": _plain("add"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _to_float,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "Div": _plain("div"),
    "Erf": _plain("erf"),
    "Expand": _expand,
    "Gemm": _linear,
    "Greater": _plain("gt"),
    "Identity": _identity,
    "LayerNormalization": _layer_norm,
    "MatMul": _plain("matmul"),
    "MaxPool": _max_pool,
    "Mul": _plain("mul"),
    "PRelu": _prelu,
    "ReduceMax": _maximum,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _plain("round"),
    "Sign": _plain("sign"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _plain("sub"),
    "Transpose": _transpose,
}

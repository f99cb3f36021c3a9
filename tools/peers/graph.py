"""An ONNX graph, built node by node: every method returns the name of a result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.peers.packages import require

INPUT, OUTPUT = "pixels", "logits"
OPSET, IR_VERSION = 17, 8  # LayerNormalization exists from opset 17 on

Dimension = int | str  # a name stands for any size
Array = NDArray[Any]


@dataclass
class Graph:
    """Nodes and constants in the order of their making."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one result. The node is called like it: ONNX Runtime 1.20 stumbles over nameless ones."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(require("onnx.helper").make_node(kind, list(inputs), [output], output, **attributes))
        return output

    def float32(self, value: ArrayLike, *shape: int) -> str:
        """A float32 constant, reshaped if a shape is given."""
        array = np.asarray(value, np.float32)
        return self._constant(array.reshape(shape) if shape else array)

    def int64(self, *values: int) -> str:
        """A vector of int64: a shape, axes, positions."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """An int64 without dimensions."""
        return self._constant(np.array(value, np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        """0 keeps a dimension, -1 stands for what is left."""
        return self.op("Reshape", x, self.int64(*shape))

    def transpose(self, x: str, *permutation: int) -> str:
        return self.op("Transpose", x, perm=permutation)

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", x, self.int64(start), self.int64(stop), self.int64(axis))

    def gelu(self, x: str) -> str:
        """The exact GELU, x / 2 * (1 + erf(x / sqrt 2)), as an exporter writes it."""
        erf = self.op("Erf", self.op("Div", x, self.float32(math.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.float32(1))), self.float32(0.5))

    def roll(self, x: str, step: int, size: int, axis: int) -> str:
        """torch.roll as an exporter writes it: the last `step` of `size` elements come first."""
        cut = -step % size
        if cut == 0:
            return x
        return self.op("Concat", self.slice(x, cut, size, axis), self.slice(x, 0, cut, axis), axis=axis)

    def model(self, output: str, name: str, pixels: Sequence[Dimension], logits: Sequence[Dimension]) -> Any:
        """The checked model: `pixels` and `logits` are the shapes of its input and output."""
        onnx, helper = require("onnx"), require("onnx.helper")
        real = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], [OUTPUT], "output")],
            name,
            [helper.make_tensor_value_info(INPUT, real, pixels)],
            [helper.make_tensor_value_info(OUTPUT, real, logits)],
            [require("onnx.numpy_helper").from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model

    def _constant(self, array: Array) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array.copy()
        return name

r"""Matrix products of an ONNX graph in integers of eight bits, rounded token by token.

ONNX Runtime's own dynamic quantisation has one range for all tokens of a batch: a large entry of
one token coarsens all others, and a prediction depends on what else is in the batch. Here each
token :math:`x` has a range :math:`s, z` of its own and each output a scale :math:`c_j`,

.. math::

    x_k \approx s (q_k - z), \quad W_{kj} \approx c_j p_{kj}, \quad
    (x W)_j \approx s \bigl(c_j \sum_k (q_k - 128) p_{kj} + (128 - z) c_j \sum_k p_{kj}\bigr)

with q from 0 to 255 and p from -127 to 127. The first sum is one product of integers; the second
is known beforehand. Ranges include zero, as in Jacob et al. 2018 (arXiv:1712.05877), section 2.1.
"""

from typing import Any, NamedTuple

import numpy as np


class _Rounded(NamedTuple):
    """Names of what a tensor of tokens became: q, s, 128 - z, and all its sizes but the last."""

    q: str
    scale: str
    offset: str
    sizes: str


class _Rewriter:
    """A graph on its way: nodes and constants that take the place of its own."""

    def __init__(self, weights: dict[str, Any]):
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.tensors: dict[str, _Rounded] = {}
        self.products: dict[str, tuple[str, str, str, str]] = {}

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, domain: str = "", **options: Any) -> str:
        from onnx import helper

        self.nodes.append(
            helper.make_node(op, inputs, [output], f"node_{output}", domain=domain, **options)
        )
        return output

    def begin(self) -> None:
        """Constants that all products share."""
        for name, value in (
            ("zero", np.float32(0)),
            ("one", np.float32(1)),
            ("smallest", np.float32(1e-30)),
            ("steps", np.float32(255)),
            ("middle", np.float32(128)),
            ("middle_byte", np.uint8(128)),
            ("last_axis", np.array([-1])),
            ("flat", np.array([-1])),
        ):
            self.constant(f"int8_{name}", value)

    def rounded(self, x: str, width: int) -> _Rounded:
        """Tokens of a tensor (..., width) as integers; those that several layers read once."""
        if x in self.tensors:
            return self.tensors[x]
        name = f"{x}_int8"
        shape = self.constant(f"{name}_shape", np.array([-1, width]))
        rows = self.add("Reshape", [x, shape], f"{name}_rows")
        low = self.add("ReduceMin", [rows, "int8_last_axis"], f"{name}_min")
        low = self.add("Min", [low, "int8_zero"], f"{name}_low")
        high = self.add("ReduceMax", [rows, "int8_last_axis"], f"{name}_max")
        high = self.add("Max", [high, "int8_smallest"], f"{name}_high")
        span = self.add("Sub", [high, low], f"{name}_span")
        scale = self.add("Div", [span, "int8_steps"], f"{name}_scale")
        ratio = self.add("Div", [low, scale], f"{name}_ratio")
        place = self.add("Neg", [self.add("Round", [ratio], f"{name}_round")], f"{name}_place")
        flat_scale = self.add("Reshape", [scale, "int8_flat"], f"{name}_flat_scale")
        flat_place = self.add("Reshape", [place, "int8_flat"], f"{name}_flat_place")
        byte = self.add("Cast", [flat_place], f"{name}_zero", to=2)  # uint8
        self.tensors[x] = _Rounded(
            self.add("QuantizeLinear", [rows, flat_scale, byte], f"{name}_q", axis=0),
            scale,
            self.add("Sub", ["int8_middle", place], f"{name}_offset"),
            self.add("Shape", [x], f"{name}_sizes", end=-1),
        )
        return self.tensors[x]

    def weight(self, name: str) -> tuple[str, str, str, str]:
        """Names of p, c, the known sums, and the number of outputs."""
        if name not in self.products:
            weight = self.weights[name]
            scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-30).astype(np.float32)
            p = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
            self.products[name] = (
                self.constant(f"{name}_int8", p),
                self.constant(f"{name}_scale", scale),
                self.constant(f"{name}_sums", scale * p.sum(axis=0, dtype=np.float32)),
                self.constant(f"{name}_width", np.array([weight.shape[1]])),
            )
        return self.products[name]

    def product(self, x: str, weight: str, output: str) -> None:
        """What was one product of floats."""
        q, scale, offset, sizes = self.rounded(x, len(self.weights[weight]))
        p, scales, sums, width = self.weight(weight)
        name = f"{output}_int8"
        found = self.add(
            "MatMulIntegerToFloat",
            [q, p, "int8_one", scales, "int8_middle_byte"],
            f"{name}_product",
            domain="com.microsoft",
        )
        known = self.add("Mul", [offset, sums], f"{name}_known")
        found = self.add("Add", [found, known], f"{name}_sum")
        found = self.add("Mul", [found, scale], f"{name}_rows")
        shape = self.add("Concat", [sizes, width], f"{name}_shape", axis=0)
        self.add("Reshape", [found, shape], output)


def quantise(model: Any) -> None:
    """Round the products of tokens and constant weights in an ONNX model, in place.

    Raises
    ------
    ValueError
        If there is none.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    matrices = {x.name: x for x in graph.initializer if len(x.dims) == 2}
    names = {node.input[1] for node in graph.node if _is_product(node, matrices)}
    if not names:
        raise ValueError("no linear layer was found in the exported graph.")
    rewriter = _Rewriter({name: numpy_helper.to_array(matrices[name]) for name in names})
    rewriter.begin()
    for node in graph.node:
        if _is_product(node, matrices):
            rewriter.product(node.input[0], node.input[1], node.output[0])
        else:
            rewriter.nodes.append(node)
    needed = {name for node in rewriter.nodes for name in node.input}
    kept = [x for x in graph.initializer if x.name in needed]
    for field, values in (("node", rewriter.nodes), ("initializer", kept + rewriter.constants)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _is_product(node: Any, matrices: dict[str, Any]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in matrices

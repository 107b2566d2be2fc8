"""Linear algebra: products of matrices."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import widened

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@operator("MatMul")
def _product(node: Node) -> Function:
    return torch.matmul if node.input_type(0) in _FLOATS else widened(torch.matmul)


@operator("Gemm")
def _general_product(node: Node) -> Function:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    left, right = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    if node.input_type(0) in _FLOATS:

        def apply(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
            a, b = a.t() if left else a, b.t() if right else b
            if c is None:
                product = torch.mm(a, b)
                return product if alpha == 1 else product * alpha
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)

        return apply

    def integers(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = torch.mm(a.t() if left else a, b.t() if right else b)
        if alpha != 1:
            product = (product * alpha).to(a.dtype)
        return product if c is None else product + (c if beta == 1 else (c * beta).to(c.dtype))

    return widened(integers)


@operator("Einsum")
def _einsum(node: Node) -> Function:
    equation = node.attribute("equation").replace(" ", "")

    def apply(*values: Tensor) -> Any:
        return torch.einsum(equation, *values)

    return apply


@operator("Det")
def _determinant(_: Node) -> Function:
    return torch.linalg.det

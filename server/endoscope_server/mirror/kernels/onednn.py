"""oneDNN's operators with fused ends, as torch has them for its own compiler.

All take and give float32 tensors on a CPU: maps channels last, and matrices row by row.
"""

from __future__ import annotations

import torch

_OPERATORS = torch.ops.mkldnn

available: bool = torch.backends.mkldnn.is_available()
"""Whether torch was built with oneDNN."""

Post = tuple[str, list[float], str]
"""A function that ends an operator: its name, numbers and algorithm."""

NOTHING: Post = ("none", [], "")

# (x, weight, bias, *post)
linear = _OPERATORS._linear_pointwise.default  # noqa: SLF001
# (x, other, weight, bias, "add")
linear_binary = _OPERATORS._linear_pointwise.binary  # noqa: SLF001
# (x, weight, bias, padding, stride, dilation, groups, *post)
convolution = _OPERATORS._convolution_pointwise.default  # noqa: SLF001
# (x, other, weight, bias, padding, stride, dilation, groups, "add", 1, post's name, numbers, algorithm)
convolution_binary = _OPERATORS._convolution_pointwise.binary  # noqa: SLF001
# The same, other first, which gets the result.
convolution_binary_ = _OPERATORS._convolution_pointwise_.binary
# (x, weight, bias, padding, output padding, stride, dilation, groups, *post)
transposed = _OPERATORS._convolution_transpose_pointwise.default  # noqa: SLF001
# (weight, padding, stride, dilation, groups, input's shape)
pack = _OPERATORS._reorder_convolution_weight.default  # noqa: SLF001
# (matrix, rows)
pack_matrix = _OPERATORS._reorder_linear_weight.default  # noqa: SLF001
# (weight, padding, output padding, stride, dilation, groups, input's shape)
pack_transposed = _OPERATORS._reorder_convolution_transpose_weight.default  # noqa: SLF001

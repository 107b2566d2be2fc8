"""Products of matrices by the processor's integer tiles (Intel AMX), in float32's own precision.

Tiles multiply whole numbers of 8 bits and sum in 32, several times faster than vectors of floats. A row of
floats is scaled to whole numbers of 24 bits and cut into three digits of 8; of the nine products of digits
the six largest are summed, without any rounding, and the sums scaled back: the scheme of Ozaki, Ogita, Oishi
and Rump (2012, "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications") on integers, as Ootomo, Ozaki and Yokota (2024, "DGEMM on Integer Matrix
Multiplication Unit") do it. Since the sums are whole numbers, results don't depend on their order.
"""

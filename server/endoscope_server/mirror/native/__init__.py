"""Stretches of convolutions as machine code made for this processor.

What torch calls for a convolution takes longer to begin than a small one takes to compute, and passes over
memory again for each thing that follows: a sum, an activation function, its gradient. Here a stretch of
convolutional layers, and its backward pass, is one program. Its kernels are written as LLVM's intermediate
representation for the processor's vectors, and do all of that where they store their results. It runs in
float32 on a CPU, channels last; everything else takes torch's operators.
"""

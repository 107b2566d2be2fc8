"""Machine code made for this processor: how kernels are written, compiled, and run by all threads."""

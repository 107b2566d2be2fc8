"""Pictures: decoding with limits, preprocessing, tiling, encoding. Numpy and Pillow alone."""

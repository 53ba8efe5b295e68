"""Tests of the Python side of a GPU run: python3 -m unittest discover -s bench/gpu/tests -t bench/gpu. They need no GPU and no PyTorch."""

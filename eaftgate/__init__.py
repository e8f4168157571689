"""Remove experts from a gpt-oss checkpoint without training, and prove that the result is near-lossless."""

__version__ = "0.1.0"

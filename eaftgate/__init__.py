"""Remove experts from a gpt-oss checkpoint without training, and prove that the result is near-lossless.

PYTEST_DONT_REWRITE, because `eaftgate gate` imports this before pytest could, which would warn of that.
"""

__version__ = "0.1.0"

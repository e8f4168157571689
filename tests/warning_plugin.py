"""A pytest plugin in whose every case a library warns."""

import warnings


def pytest_runtest_setup() -> None:
    warnings.warn("this will go away", DeprecationWarning, stacklevel=1)

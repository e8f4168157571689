"""A pytest plugin with which the worker that comes to a certain case dies."""

import os

import pytest


def pytest_runtest_call(item: pytest.Item) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ and item.name.startswith("test_halves"):
        os._exit(1)

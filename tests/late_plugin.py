"""A pytest plugin with which the first case of a bad run that fails takes so long that other workers are through."""

import time

import pytest


def pytest_runtest_call(item: pytest.Item) -> None:
    if item.name == "test_integrity[raised]":
        time.sleep(4)

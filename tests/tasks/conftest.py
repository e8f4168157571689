"""The harness itself, on a small checkpoint that is none but for its shapes, with task files of the test's own."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def apart_from_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data sets' cache, which is read of the environment when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield

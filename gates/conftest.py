"""`pytest gates/` in a clone is the suite of eaftgate, as `pytest --pyargs eaftgate.suite` is anywhere."""

from eaftgate.suite.conftest import *  # noqa: F403

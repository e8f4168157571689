"""Settings for every test. Lying here, this file also puts tests/ on sys.path, for `tiny_checkpoint`."""

from hypothesis import settings

settings.register_profile("eaftgate", deadline=None, derandomize=True)
settings.load_profile("eaftgate")

"""Settings for every test. Lying here, this file also puts tests/ on sys.path, for `tiny_checkpoint`."""

import os
import signal

from hypothesis import settings

# Tests run in parallel processes; two thread pools on the same cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("eaftgate", deadline=None, derandomize=True)
settings.load_profile("eaftgate")

# Where a script begins the tests in its background, Ctrl-C is ignored, and what they begin would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""What holds of a parser, whatever it is given: it refuses or it reads, in time, in little memory."""

import resource
import time
import traceback
import warnings
from pathlib import Path

from fuzz.targets import REFUSALS, Target

MAX_SECONDS = 2.0
MAX_GROWTH_BYTES = 500_000_000


def problem(target: Target, data: bytes, work: Path) -> str:
    """What is wrong with how `target` takes `data`; empty when nothing is."""
    path = work / "input"
    path.write_bytes(data)
    before, started = _peak(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except REFUSALS as error:
        if not str(error):
            return f"a refusal without a word: {error!r}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of a library in Rust is no Exception
        return traceback.format_exc()
    seconds, grown = time.process_time() - started, _peak() - before
    if seconds > MAX_SECONDS:
        return f"it took {seconds:.1f} seconds"
    return f"it took {grown / 1e6:.0f} MB" if grown > MAX_GROWTH_BYTES else ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

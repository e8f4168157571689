"""What profiling takes beyond what Python and its libraries do, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from gate_command import ROOT
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate.model.weights import LOADING_LAYERS

pytestmark = pytest.mark.slow
SIZE = Size(layers=8, experts=32, hidden=512, intermediate=512)
LAYER_BYTES = SIZE.experts * 3 * SIZE.hidden * SIZE.intermediate * 4
"""Of its experts in float32: 101 MB, of which 13 MB are stored."""
PROFILED = """
import sys
from pathlib import Path
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.model.load import ModelSettings
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint

place, way = Path(sys.argv[1]), sys.argv[2]

def profile(base):
    request, settings = ProfileRequest(place / "packs", seq_len=64), ModelSettings("cpu", "float32", dequantize=True)
    out = place / f"{base}-{way}"
    profile_checkpoint(open_checkpoint(place / base), "0" * 64, request, out, settings, stream=way == "stream")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024  # unlike ru_maxrss not also of what started this process

print(-profile("small") + profile("large"))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("memory")
    write_lively_checkpoint(place / "small")
    write_lively_checkpoint(place / "large", size=SIZE)
    write_packs(place / "packs", {"chat": 12})
    return place


def growth(place: Path, way: str) -> float:
    """In layers with plain experts."""
    ended = subprocess.run(
        [sys.executable, "-c", PROFILED, str(place), way], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout) / LAYER_BYTES


def test_streamed_it_is_about_one_layer(place: Path) -> None:
    assert growth(place, "stream") < 2


def test_as_a_whole_it_is_all_layers(place: Path) -> None:
    """Or the other test would see nothing; and what is asked of the free memory is enough."""
    found = growth(place, "whole")
    assert SIZE.layers < found < SIZE.layers + LOADING_LAYERS

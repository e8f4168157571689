"""Options, inputs and the table at the end of the benchmarks.

--packs, --device, --dtype, --batch-size and --num-blocks are defined as for the gate.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # packing is measured a core, and tokenizers has no other switch

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.alternation import Rounds, Step, seconds
from benchmarks.generate_checkpoint import generate, layers_for
from benchmarks.measuring import Batch, Compare, Figure, Report
from benchmarks.scoring import Model, loaded
from eaftgate.gate.options import gate_options
from eaftgate.model.load import default_settings
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, Pack, named_packs
from eaftgate.packs.tokenizer import PackTokenizer, load_tokenizer

SHARED_OPTIONS = ("--packs", "--device", "--dtype", "--batch-size", "--num-blocks")
NEEDED = {"model_dir": "model", "packs_dir": "packs"}
"""Fixture -> the option that it cannot do without."""


def pytest_addoption(parser: pytest.Parser) -> None:
    option = parser.getgroup("benchmarks", "eaftgate benchmarks").addoption
    option("--model", type=Path, metavar="DIR", help="checkpoint to measure with")
    option("--seq-len", type=int, default=1024, metavar="N", help="tokens a block (default: 1024)")
    option("--rounds", type=int, default=5, metavar="N", help="timed rounds of subject and reference (default: 5)")
    option(
        "--rewrite-bytes",
        type=float,
        metavar="N",
        help="also rewrite a generated checkpoint of about N bytes at the 20B shape, e.g. 4e9",
    )
    option("--check", action="store_true", help="fail a benchmark that misses its target")
    gate_options(lambda name, **settings: option(name, **settings) if name in SHARED_OPTIONS else None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rewrite_base" in metafunc.fixturenames:
        sources = ["model", "synthetic"] if metafunc.config.getoption("rewrite_bytes") else ["model"]
        metafunc.parametrize("rewrite_base", sources, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)  # after -k has had its say
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Refuse to start without an input: a skipped benchmark would look like a measured one."""
    for item in items:
        for fixture, option in NEEDED.items():
            if fixture in getattr(item, "fixturenames", ()) and config.getoption(option) is None:
                raise pytest.UsageError(f"{item.name} needs --{option}=DIR: pass it, or choose others with -k")


@pytest.fixture(scope="session")
def model_dir(pytestconfig: pytest.Config) -> Path:
    path: Path = pytestconfig.getoption("model")
    return path


@pytest.fixture(scope="session")
def packs_dir(pytestconfig: pytest.Config) -> Path:
    path: Path = pytestconfig.getoption("packs")
    return path


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> PackTokenizer:
    return load_tokenizer(model_dir)


@pytest.fixture(scope="session")
def union(packs_dir: Path) -> Pack:
    return named_packs(packs_dir, seed=None)[UNION]


@pytest.fixture(scope="session")
def model(model_dir: Path, pytestconfig: pytest.Config) -> Model:
    """One model for all scoring benchmarks; its experts are dequantised, because profiling needs them so."""
    get = pytestconfig.getoption
    return loaded(model_dir, default_settings(device=get("device"), dtype=get("dtype"), dequantize=True))


@pytest.fixture(scope="session")
def blocks(union: Pack, tokenizer: PackTokenizer, pytestconfig: pytest.Config) -> Blocks:
    """--num-blocks blocks (default: 8) of --seq-len tokens of the packs' UNION."""
    get = pytestconfig.getoption
    shape = {"seq_len": get("seq_len"), "num_blocks": get("num_blocks") or 8}
    return build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, **shape)


@pytest.fixture(scope="session")
def batches(blocks: Blocks, model: Model, pytestconfig: pytest.Config) -> list[Batch]:
    """The blocks, --batch-size at a time (default: 1)."""
    size = pytestconfig.getoption("batch_size") or 1

    def batch(start: int) -> Batch:
        ids_BS = blocks.token_ids_BS[start : start + size]
        scored_BS = blocks.scored_BS[start : start + size]
        return Batch(ids_BS, scored_BS, torch.from_numpy(ids_BS).long().to(model.device))

    return [batch(start) for start in range(0, blocks.num_blocks, size)]


@pytest.fixture(scope="session")
def rewrite_base(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The checkpoint to rewrite: --model, or a generated one of about --rewrite-bytes, removed afterwards."""
    if request.param == "model":
        yield model_dir
        return
    path = tmp_path_factory.mktemp("rewrite") / "synthetic"
    generate(path, layers=layers_for(int(request.config.getoption("rewrite_bytes"))))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def compare(benchmark: Any, pytestconfig: pytest.Config) -> Compare:
    """`compare(subject, reference, before=None)`: --rounds alternating rounds after one of each that does not count.

    `before` runs before every subject and reference, untimed.
    """
    rounds: int = pytestconfig.getoption("rounds")

    def run(subject: Step, reference: Step, before: Step = lambda: None) -> Rounds:
        subject_s: list[float] = []
        reference_s: list[float] = []

        def setup() -> None:
            before()
            reference_s.append(seconds(reference))
            before()

        benchmark.pedantic(lambda: subject_s.append(seconds(subject)), setup=setup, rounds=rounds, warmup_rounds=1)
        return Rounds(subject_s[-rounds:], reference_s[-rounds:])

    return run


FIGURES = pytest.StashKey[list[tuple[str, Figure]]]()


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Report:
    """Keep a figure for the table and the benchmark's extra_info; with --check, fail when it misses its target."""

    def keep(figure: Figure) -> None:
        request.config.stash.setdefault(FIGURES, []).append((request.node.name.removeprefix("test_"), figure))
        benchmark.extra_info.update(asdict(figure))
        if request.config.getoption("check"):
            assert not figure.missed, f"{figure.value:.3g} {figure.unit} misses the target {figure.target}"

    return keep


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, [])
    if not figures:
        return
    table = Table(title="Against the reference of the same run", title_justify="left", box=SIMPLE_HEAD)
    for column in ("benchmark", "subject", "reference", "figure", "target", "", "note"):
        table.add_column(column)
    for name, figure in figures:
        verdict = "MISSED" if figure.missed else "met" if figure.target else ""
        value = f"{figure.value:.3g} {figure.unit}"
        table.add_row(name, figure.subject, figure.reference, value, figure.target, verdict, figure.note)
    console = Console(width=200, no_color=True, markup=False)
    with console.capture() as captured:
        console.print(table)
    terminalreporter.write_line("")
    terminalreporter.write(captured.get())

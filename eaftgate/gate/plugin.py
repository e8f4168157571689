"""The pytest plugin: options, cases, scheduling and the report at the end. It wires; the rooms beside it compute.

It does nothing unless cases under gates/ are collected.
"""

import inspect
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eaftgate.collect.sglang.collector import close_engines
from eaftgate.collect.store import OpenBar, no_bar
from eaftgate.errors import UserError
from eaftgate.gate.cases import MODULES, cases, has_cases, models_of, order_of
from eaftgate.gate.gpus import pin_gpus, visible_gpus
from eaftgate.gate.models import check_results
from eaftgate.gate.plan import GateOptions, Plan, make_plan
from eaftgate.gate.recipe import gate_settings
from eaftgate.gate.run import GateRun
from eaftgate.gate.session import SessionReport
from eaftgate.progress import Bar, progress_bar

PLAN = pytest.StashKey[Plan]()
SESSION = pytest.StashKey[str]()


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def pytest_addoption(parser: pytest.Parser) -> None:
    gate_options(parser.getgroup("eaftgate", "near-lossless gate").addoption)


def gate_options(option: Callable[..., object]) -> None:
    """Every option of the gate, by calls like those of ArgumentParser.add_argument; none has a default of its own."""
    option("--recipe", type=Path, metavar="FILE", help="YAML file with options that are not given here")
    option("--base", metavar="BASE", help="base checkpoint: directory or hub id (default: the manifest's)")
    option("--checkpoint", action="append", metavar="CKPT", help="candidate to gate; may be repeated")
    option("--packs", type=Path, metavar="DIR", help="directory of gate packs (*.parquet)")
    option("--gates", type=Path, metavar="FILE", help="policies and regimes")
    option("--policy", metavar="NAME", help="policy of the gates file (default: its default)")
    option("--regime", metavar="NAME", help="regime of the gates file (default: bigblocks)")
    option("--seq-lens", type=_integers, metavar="N,N", help="seq_lens instead of the regime's")
    option("--num-blocks", type=int, metavar="N", help="blocks per pack and seq_len instead of the regime's")
    option("--batch-size", type=int, metavar="N", help="blocks scored at a time")
    option("--seed", type=int, metavar="N", help="shuffle every pack's rows (default: file order)")
    option("--seeds", type=_integers, metavar="A,B", help="also hold the verdict over these seeds")
    option("--collector", choices=["transformers", "sglang"], help="what scores the blocks")
    option(
        "--endpoint",
        action="append",
        metavar="URL",
        help="sglang: a running server of the base or of a candidate; may be repeated (default: an engine of our own)",
    )
    option("--tp", type=int, metavar="N", help="sglang: GPUs that share one model")
    option("--dp", type=int, metavar="N", help="sglang: copies of the model")
    option("--device", metavar="DEV", help="cpu, cuda or cuda:N (default: cuda when there is one)")
    option("--dtype", choices=["float32", "bfloat16"], help="default: float32 on a CPU, bfloat16 on a GPU")
    option(
        "--dequantize",
        action="store_true",
        help="on a GPU: turn MXFP4 experts into bfloat16 instead of using them as they are",
    )
    option(
        "--results",
        type=Path,
        metavar="RUN_DIR",
        help="default: ./results; resumed when it exists",
    )
    option(
        "--sequential",
        action="store_true",
        help="stop scoring a candidate's cell as soon as it is decided, at the same error rate",
    )
    option("--strict-cells", action="store_true", help="advisory cells and underpowered metrics decide too")
    option(
        "--allow-overlap",
        action="store_true",
        help="report calibration rows in the gate packs, and do not fail on them",
    )


def _options(config: pytest.Config) -> GateOptions:
    """What the command line says over what the recipe says over the defaults of GateOptions."""
    names = ("base", "checkpoint", "packs", "gates", "policy", "regime", "seq_lens", "num_blocks", "batch_size", "seed",
             "seeds", "strict_cells", "sequential", "allow_overlap", "collector", "endpoint", "tp", "dp", "device",
             "dtype", "dequantize", "results")  # fmt: skip
    recipe = config.getoption("recipe")
    said = {} if recipe is None else gate_settings(recipe, gate_options)
    given = {name: config.getoption(name) for name in names}
    said |= {name: value for name, value in given.items() if value is not None and value is not False}
    return GateOptions(
        results=said.pop("results", Path("results")).absolute(),
        checkpoints=tuple(said.pop("checkpoint", ())),
        endpoints=tuple(said.pop("endpoint", ())),
        **said,
    )


def _fixture(config: pytest.Config) -> Path:
    return config.rootpath / "fixtures"


def _asked(config: pytest.Config) -> bool:
    """Whether this invocation names gates/ or something in it."""
    gates = config.rootpath / "gates"
    paths = ((config.invocation_params.dir / str(arg).split("::")[0]).resolve() for arg in config.args)
    return any(path == gates or gates in path.parents for path in paths)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if not _asked(config):
        if any(config.getoption(name) for name in ("checkpoint", "base", "recipe")):
            raise pytest.UsageError("--checkpoint, --base and --recipe gate a checkpoint only as `pytest gates/ ...`")
        return
    try:
        plan = make_plan(_options(config), fixture_packs=_fixture(config) / "packs" / "gate")
    except UserError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[PLAN] = plan
    worker_input = getattr(config, "workerinput", None)
    if worker_input is None:
        _check_results(plan)
        _check_gpus(plan, workers=int(getattr(config.option, "numprocesses", None) or 1))
        config.stash[SESSION] = uuid.uuid4().hex
        config.pluginmanager.register(SessionReport(config, plan, config.stash[SESSION]), "eaftgate-session")
    else:
        config.stash[SESSION] = worker_input["eaftgate_session"]
        pin_gpus(int(worker_input["workerid"].removeprefix("gw")), plan.gpus_per_worker)
        _share_cores(int(worker_input["workercount"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["eaftgate_session"] = node.config.stash.get(SESSION, None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if PLAN not in config.stash or config.getvalue("dist") != "load":
        return None
    from eaftgate.gate.schedule import GateScheduling

    plan = config.stash[PLAN]
    return GateScheduling(config, log, models=models_of(plan), in_order=plan.options.sequential)


def _check_results(plan: Plan) -> None:
    try:
        check_results(plan.options.results)
    except UserError as error:
        raise pytest.UsageError(str(error)) from None


def _check_gpus(plan: Plan, *, workers: int) -> None:
    """An engine that shares its GPU with another would run out of memory in hour three; say so at once."""
    found, needed = len(visible_gpus()), workers * plan.gpus_per_worker
    if plan.runs_engines and 0 < found < needed:  # without any, the cases say what is missing
        raise pytest.UsageError(
            f"{workers} workers of {plan.gpus_per_worker} GPUs need {needed}, and {found} are visible: "
            "lower -n, --tp or --dp"
        )


def _share_cores(workers: int) -> None:
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a module that has no case in this plan: an empty parameter set would be an error."""
    if collection_path.parent == config.rootpath / "gates" and collection_path.stem in MODULES:
        plan = config.stash.get(PLAN, None)
        return None if plan is not None and has_cases(plan, collection_path.stem) else True
    return None


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """Leave out a function that has no case in this plan, like the no-op rewrite's metrics where a server scores."""
    plan = collector.config.stash.get(PLAN, None)
    if plan is None or collector.path.parent != collector.config.rootpath / "gates" or not inspect.isfunction(obj):
        return None
    kinds = [kind for kind in inspect.signature(obj).parameters if kind.endswith("_case")]
    return [] if name.startswith("test_") and any(not cases(plan, kind) for kind in kinds) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan = metafunc.config.stash.get(PLAN, None)
    for name in metafunc.fixturenames:
        if plan is not None and name.endswith("_case"):
            parameters = cases(plan, name)
            metafunc.parametrize(name, list(parameters.values()), ids=list(parameters))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Collections first, so that every process has work and verdicts find theirs done.

    A library's deprecation warning is shown and is no verdict, whatever pyproject.toml makes of warnings in tests.
    """
    plan = config.stash.get(PLAN, None)
    if plan is not None:
        for item in filter(_is_gate, items):
            item.add_marker(pytest.mark.filterwarnings("default"))
        key, last = order_of(plan), (len(MODULES), 0)
        items.sort(key=lambda item: key(item.path.stem, item.name) if _is_gate(item) else last)


def _is_gate(item: pytest.Item) -> bool:
    return item.path.parent == item.config.rootpath / "gates" and item.path.stem in MODULES


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> GateRun:
    """The gate run of this process."""
    return GateRun(
        pytestconfig.stash[PLAN],
        session=pytestconfig.stash[SESSION],
        fixture=_fixture(pytestconfig),
        open_bar=lambda title: _bar(pytestconfig, title),
    )


def _bar(config: pytest.Config, title: str) -> OpenBar:
    """A progress bar on the terminal, under pytest's output capture; none in a worker."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if hasattr(config, "workerinput") or capture is None:
        return no_bar

    @contextmanager
    def open_bar(tokens: int) -> Iterator[Bar]:
        with capture.global_and_fixture_disabled(), progress_bar(title, tokens, unit="tokens") as bar:
            yield bar

    return open_bar


def pytest_sessionfinish() -> None:
    close_engines()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a user can put right fails a case with its sentence, not with a traceback."""
    try:
        return (yield)
    except UserError as error:
        if not _is_gate(item):
            raise
        reason = str(error)
    # Outside the handler: pytest shows the exceptions that one was raised in the handling of.
    pytest.fail(reason, pytrace=False)

"""What pytest asks of a gate session: its plan, which cases there are and in what order, and who runs them.

It wires; the rooms beside it compute. The plugin calls `start` when the suite was asked for.
"""

import inspect
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eaftgate.errors import UserError
from eaftgate.files import write_failure
from eaftgate.gate.cases import MODULES, cases, has_cases, models_of, order_of
from eaftgate.gate.gpus import pin_gpus, visible_gpus
from eaftgate.gate.options import gate_options, option_names
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.plugin import CASES, DIRECTORY, REPORT, RUN_MODULE, SUITE, SUITE_DIR, is_case
from eaftgate.gate.recipe import gate_settings
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run import GateRun
from eaftgate.gate.run_directory import hold
from eaftgate.gate.session import COLLECTED_AGAIN, SessionReport, uncaptured
from eaftgate.model.device import check_named, check_there, number_of
from eaftgate.tasks.harness import Harness
from eaftgate.visible import check_encoded, sentence

_FIELDS = {field.name for field in fields(GateOptions)}
PLAN = pytest.StashKey[Plan]()
_FIRST = pytest.StashKey[BaseException]()
"""In a case that failed: with what."""
_REPEATING = {"reruns": 0, "retries": 0, "force_flaky": 0, "count": 1}
"""Options of other plugins that have a case measured again, as they call them, and up to where they do not."""
SESSION = pytest.StashKey[str]()
_SAID = pytest.StashKey[list[str]]()
"""Lines for the user that a process has for the case that is running."""


def start(config: pytest.Config) -> None:
    """Plan the session and take part in it. Raises UsageError where the options contradict each other."""
    _check_options(config)
    try:
        for argument in config.invocation_params.args:
            check_encoded(str(argument), what="the argument")
        plan = make_plan(options_of(config), fixture_packs=_fixtures(config) / "packs" / "gate")
        worker_input = getattr(config, "workerinput", None)
        workers = int(getattr(config.option, "numprocesses", None) or 0)
        if worker_input is None:
            check_device(plan, workers)
            _check_tasks(plan)
            hold(config, plan.options)
    except UserError as error:
        raise pytest.UsageError(sentence(str(error))) from None
    config.stash[PLAN] = plan
    config.stash[_SAID] = []
    if worker_input is None:
        _check_gpus(plan, workers=workers or 1)
        config.stash[SESSION] = uuid.uuid4().hex
        config.pluginmanager.register(SessionReport(config, plan, config.stash[SESSION]), REPORT)
    else:
        config.stash[SESSION] = worker_input["eaftgate_session"]
        pin_gpus(int(worker_input["workerid"].removeprefix("gw")), plan.needs.gpus)
        _share_cores(int(worker_input["workercount"]))
    config.pluginmanager.register(GateSession(config, plan), CASES)


def _check_options(config: pytest.Config) -> None:
    """Raises UsageError for what has a case measured again until it passes, or leaves out the gate's own parts."""
    for name, harmless in _REPEATING.items():
        asked = config.getoption(name, None) or _ini(config, name)
        if asked and str(asked) != str(harmless):
            raise pytest.UsageError(
                f"--{name.replace('_', '-')} has a case measured again, and in a gate the first result stands: "
                "leave it out"
            )
    if blocked := [name for name in (REPORT, CASES) if config.pluginmanager.is_blocked(name)]:
        raise pytest.UsageError(f"-p no:{blocked[0]} leaves out a part of the gate: there is no verdict without it")


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (KeyError, ValueError):  # nobody has a setting of that name
        return None


def options_of(config: pytest.Config) -> GateOptions:
    """What the command line says over what the recipe says over the defaults of GateOptions."""
    names = [option.removeprefix("--").replace("-", "_") for option in option_names()]
    recipe = config.getoption("recipe")
    said = {} if recipe is None else gate_settings(recipe, gate_options)
    given = {name: config.getoption(name) for name in names if name != "recipe"}
    said |= {name: value for name, value in given.items() if value is not None and value is not False}
    return GateOptions(
        results=said.pop("results", Path("results")).absolute(),
        checkpoints=tuple(said.pop("checkpoint", ())),
        of_collector={name: said.pop(name) for name in list(said) if name not in _FIELDS},
        **said,
    )


def _fixtures(config: pytest.Config) -> Path:
    """The embedded checkpoint and its packs, which a clone has and an installation has not."""
    beside_gates, beside_package = (place.parent / "fixtures" for place in (config.stash[DIRECTORY], SUITE_DIR.parent))
    return beside_gates if beside_gates.is_dir() else beside_package


def open_run(config: pytest.Config) -> AbstractContextManager[GateRun]:
    """The gate run of this process, closed at the end."""
    return closing(
        GateRun(
            config.stash[PLAN],
            session=config.stash[SESSION],
            fixture=_fixtures(config),
            uncaptured=uncaptured(config),
            say=config.stash[_SAID].append,
        )
    )


def check_device(plan: Plan, workers: int) -> None:
    """Asked once, by the process that is started: in a worker, CUDA is not to be looked at before its GPU is pinned.
    Raises UserError; of a device that nothing here runs on, only where its word is none."""
    device, here = plan.options.device, plan.needs.lends or plan.options.embedded
    if device is not None:
        (check_there if here else check_named)(device)
        if here and workers and device != "cpu" and number_of(device) >= plan.needs.gpus:
            raise UserError(
                f"device {device} was asked for, and a worker of -n sees its own GPU alone: give --device=cuda"
            )


def _check_tasks(plan: Plan) -> None:
    """To read the names of all takes seconds: it is done once, by one process, before anything is scored."""
    harness = Harness(plan.options.tasks_path, chat_template=plan.options.tasks_chat_template)
    for task in plan.tasks:
        harness.check(task)


def _check_gpus(plan: Plan, *, workers: int) -> None:
    """An engine that shares its GPU with another would run out of memory in hour three; say so at once."""
    found, needed = len(visible_gpus()), workers * plan.needs.gpus
    if plan.needs.starts_engines and 0 < found < needed:  # without any, the cases say what is missing
        lower = " or ".join(", ".join(("-n", *plan.needs.lowered_by)).rsplit(", ", 1))
        raise pytest.UsageError(
            f"{workers} workers of {plan.needs.gpus} GPUs need {needed}, and {found} are visible: lower {lower}"
        )


def _share_cores(workers: int) -> None:
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


class GateSession:
    """The hooks of a session over `plan`, in the process that the user started and in xdist's workers."""

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        self._plan = plan
        self._directories = (SUITE_DIR, config.stash[DIRECTORY])

    # Collecting

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out a module that has no case in this plan: an empty parameter set would be an error."""
        module = collection_path.stem
        ours = collection_path.parent in self._directories and module in (*MODULES, RUN_MODULE)
        return True if ours and (module == RUN_MODULE or not has_cases(self._plan, module)) else None

    def pytest_pycollect_makemodule(self, module_path: Path, parent: Any) -> pytest.Module | None:
        """The suite's own modules are eaftgate/suite/..., in ids and in JUnit, wherever they are installed."""
        if module_path.parent != SUITE_DIR:
            return None
        module: pytest.Module = pytest.Module.from_parent(
            parent, path=module_path, nodeid=f"{SUITE.replace('.', '/')}/{module_path.name}"
        )
        return module

    def pytest_pycollect_makeitem(self, name: str, obj: object) -> list[pytest.Item] | None:
        """Leave out a function without a case in this plan, like the no-op rewrite's metrics where a server scores."""
        if not (is_case(obj) and name.startswith("test_") and inspect.isfunction(obj)):
            return None
        if obj.__module__ == f"{SUITE}.{RUN_MODULE}":
            return []
        kinds = [kind for kind in inspect.signature(obj).parameters if kind.endswith("_case")]
        return [] if any(not cases(self._plan, kind) for kind in kinds) else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for name in metafunc.fixturenames:
            if name.endswith("_case") and is_case(metafunc.function):
                parameters = cases(self._plan, name)
                metafunc.parametrize(name, list(parameters.values()), ids=list(parameters))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Collections first, so that every process has work and verdicts find theirs done.

        A library's deprecation warning is shown and is no verdict, whatever -W makes of it.
        """
        for item in filter(_is_gate, items):
            item.add_marker(pytest.mark.filterwarnings("default"))
        key, last = order_of(self._plan), (len(MODULES), 0)
        items.sort(key=lambda item: key(item.path.stem, item.name) if _is_gate(item) else last)

    # Running

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["eaftgate_session"] = node.config.stash[SESSION]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        if config.getvalue("dist") != "load":
            return None
        from eaftgate.gate.schedule import GateScheduling

        return GateScheduling(config, log, models=models_of(self._plan), in_order=self._plan.options.sequential)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """What a user can put right fails a case with its sentence, not with a traceback."""
        try:
            return (yield)
        except (UserError, OSError) as error:
            if not _is_gate(item):
                raise
            problem = error if isinstance(error, UserError) else write_failure(error, self._plan.options.results)
            reason = sentence(str(problem))
        finally:
            if said := item.config.stash[_SAID]:
                item.user_properties.append((COLLECTED_AGAIN, "; ".join(said)))
                said.clear()
        # Outside the handler: pytest shows the exceptions that one was raised in the handling of.
        pytest.fail(reason, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        """A case that failed fails again in the same way, whoever has it run again: the first result stands."""
        if (first := pyfuncitem.stash.get(_FIRST, None)) is not None:
            raise first
        try:
            return (yield)
        except BaseException as error:
            if _is_gate(pyfuncitem):
                pyfuncitem.stash[_FIRST] = error
            raise


def _is_gate(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and is_case(item.function)

"""Run the stages of a recipe one after the other, and nothing twice."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.files import sha256_file, write_failure
from eaftgate.gate.conclusion import reason_of, verdict_of
from eaftgate.gate.results import PAGE_FILE, Parity, RunVerdict
from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.locks import Taken, held
from eaftgate.outputs import check_file, check_outside_checkpoints, check_parent, put_file
from eaftgate.progress import AGAIN, duration
from eaftgate.recipes.recipe import Setting
from eaftgate.stages.process import run_stage, shown_command
from eaftgate.stages.record import (
    EnoughRecord,
    RunRecord,
    before,
    changes,
    check_asked,
    gate_inputs,
    judged,
    made_by_run,
    made_of,
    no_longer_named,
    read_record,
    remember,
    remember_enough,
)
from eaftgate.stages.stage import BUILD, GATE, LOCK, LOCK_SUFFIX, PRUNE, REPORT, SPLIT, Layout, Stage

LOCK_FILE = ".run.lock"
_PASSED, _NEGATIVE, _PUT_RIGHT, _INTERRUPTED = 0, 1, 2, 130
Ask = Callable[[RunRecord, Callable[[str], None]], EnoughRecord]
"""Whether the rows are enough, by what is recorded; what is said while it looks goes to the second."""
_GATE_CODES = {0: _PASSED, 1: _NEGATIVE, 2: _INTERRUPTED}


@dataclass(frozen=True)
class Ended:
    """A stage that has ended. `seconds` is None for one that was up to date and was not begun."""

    label: str
    out: Path
    seconds: float | None


@dataclass(frozen=True)
class Outcome:
    """`code` is the run's: 0, 1 for a negative verdict, or one that cannot be, else that of the stage that could not be
    done. `enough` is what was found of the rows, where it was asked; `stopped` that the run ended there."""

    ended: tuple[Ended, ...]
    parity: Parity | None
    code: int
    enough: EnoughRecord | None = None
    stopped: bool = False

    @property
    def verdicts(self) -> dict[str, RunVerdict]:
        """By candidate; of one that was not judged at all, incomplete."""
        if self.parity is None:
            return {}
        names = dict.fromkeys([one.name for one in self.parity.candidates] + [cell.name for cell in self.parity.cells])
        return {name: verdict_of(self.parity, name) for name in names}

    @property
    def reason(self) -> str:
        """Why the run is no pass, in one line; nothing where it is one."""
        if self.stopped and self.enough is not None:
            return f"not enough: {self.enough.problems[0]}"
        return "" if self.parity is None or self.parity.verdict == "pass" else reason_of(self.parity)


def check_place(out: Path) -> None:
    """Raises UserError when no run can have the directory `out`."""
    check_parent(out)
    check_outside_checkpoints(out, itself=True)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is no directory, so nothing can be made in it: choose another --out")


def run_stages(
    recipe: Path,
    stages: Sequence[Stage],
    layout: Layout,
    *,
    say: Callable[[str], None],
    enough: Ask,
    allow_undecided: bool = False,
) -> Outcome:
    """Have the directory of the run to oneself, and do in it what is not done. `say` gets every line for people.

    `enough` says whether the rows are; where they are not, nothing is profiled, unless undecided is allowed. Raises
    UserError when another run has it, or it was made by a recipe that says something else.
    """
    check_place(layout.out)
    try:
        layout.out.mkdir(exist_ok=True)
        with held(layout.out / LOCK_FILE):
            record = read_record(layout.out)
            check_asked(recipe, record, stages)
            for name in no_longer_named(layout.out, record, stages):
                say(f"== {layout.out / name} is in the recipe no more: left alone, and not judged")
            return _Running(layout, say, record, stages, enough, allow_undecided=allow_undecided).through()
    except Taken as taken:
        raise UserError(
            f"another run is going on in {layout.out} ({taken}): wait for it or choose another --out"
        ) from None
    except OSError as error:
        raise write_failure(error, layout.out) from None


class _Running:
    """The state of one run: what is recorded so far, and what the gate came to."""

    def __init__(
        self,
        layout: Layout,
        say: Callable[[str], None],
        record: RunRecord,
        stages: Sequence[Stage],
        enough: Ask,
        *,
        allow_undecided: bool,
    ) -> None:
        self._layout, self._say, self._record, self._stages = layout, say, record, stages
        self._candidates = [stage.out for stage in stages if stage.name == PRUNE]
        self._ask, self._allow_undecided = enough, allow_undecided
        self._enough: EnoughRecord | None = None
        self._parity: Parity | None = None
        self._page_is_new = False

    def through(self) -> Outcome:
        ended: list[Ended] = []
        worst, asked = _PASSED, False
        for number, stage in enumerate(self._stages, 1):
            if stage.name not in (BUILD, SPLIT) and not asked:
                asked = True
                if not self._goes_on(stage):
                    return Outcome(tuple(ended), None, _NEGATIVE, self._enough, stopped=True)
            one, code = self._do(stage, f"{number} of {len(self._stages)}")
            if one is None:
                continue
            ended.append(one)
            if code > _NEGATIVE or (code and stage.name not in (GATE, LOCK)):
                worst = max(code, _PUT_RIGHT)  # torchrun ends with 1 whatever it is
                break
            worst = max(worst, code)
        return Outcome(tuple(ended), self._parity, worst, self._enough)

    def _goes_on(self, stage: Stage) -> bool:
        """Whether the gate can come to a verdict, or none is asked for: before what takes long."""
        gate = next((one for one in self._stages if one.name == GATE), None)
        if gate is not None and self._judged(self._with_enough_blocks(gate), self._inputs(gate)) is not None:
            return True  # it has come to one
        try:
            found = self._ask(self._record, self._say)
        except KeyboardInterrupt:
            self._say(f"== the check of the rows was interrupted; {AGAIN}")
            raise
        self._enough, self._record = found, remember_enough(self._layout.out, self._record, found)
        for line in found.lines:
            self._say(f"== {line}")
        if not (found.enough or found.num_blocks or self._allow_undecided):
            self._say(
                f"== stopped before {stage.label}, for the gate could only be inconclusive: --allow-undecided, or run: "
                "{allow_undecided: true} in the recipe, goes on all the same"
            )
            return False
        return True

    def _with_enough_blocks(self, gate: Stage) -> Stage:
        """The gate with the number of blocks that was found to be enough, where the recipe leaves it to the regime."""
        found = self._record.enough
        if found is None or found.num_blocks is None or self._allow_undecided or "num_blocks" in gate.asked:
            return gate
        number = Setting(str(found.num_blocks), "what the rows hold")
        words = (*gate.words, f"--num-blocks={number.value}")
        return replace(gate, words=words, asked={**gate.asked, "num_blocks": number})

    def _do(self, stage: Stage, place: str) -> tuple[Ended | None, int]:
        """None for a stage of which there is nothing to make."""
        if stage.name == GATE:
            return self._gate(stage, place)
        if stage.name not in (REPORT, LOCK):
            self._record = remember(self._layout.out, self._record, stage)
            return self._begin(stage, place)
        if self._parity is None or (stage.name == LOCK and not self._was_judged(stage)):
            self._say(f"== {place}: no {stage.label}: the gate has not come to a verdict")
            return None, _PASSED
        of = {"parity": str(self._parity.sha256)}
        if made_of(self._record, stage, of):
            return self._up_to_date(stage, place), self._negative(stage)
        if made_by_run(self._record, stage):
            stage.out.unlink()
        self._record = remember(self._layout.out, self._record, stage, of=of)
        ended, code = self._copied(stage, place) or self._begin(stage, place)
        if stage.out.is_file():
            self._record = remember(self._layout.out, self._record, stage, of=of, sha256=sha256_file(stage.out))
        return ended, code

    def _gate(self, stage: Stage, place: str) -> tuple[Ended, int]:
        stage = self._with_enough_blocks(stage)
        of = self._inputs(stage)
        self._parity = self._judged(stage, of)
        if self._parity is not None:
            return self._up_to_date(stage, place), int(self._parity.verdict != "pass")
        if changed := changes(self._record, stage):
            said = ", ".join(f"{option} is {now} and was {was}" for option, was, now in changed)
            self._say(f"== {place}: {said}: judged again in {stage.out}, where what is scored stays")
        self._record = remember(self._layout.out, self._record, stage, of=of)
        ended, code = self._begin(stage, place)
        self._parity = judged(stage.out)
        if self._parity is not None:
            self._page_is_new = True  # the gate takes that of an earlier run away
            self._record = remember(self._layout.out, self._record, stage, of=of, sha256=self._parity.sha256)
        return ended, _GATE_CODES.get(code, code if code < 0 else _PUT_RIGHT)

    def _copied(self, stage: Stage, place: str) -> tuple[Ended, int] | None:
        """The report that the gate has just written, where a run has its own; None where there is none of its."""
        page = self._layout.results / PAGE_FILE
        if stage.name != REPORT or not self._page_is_new or not page.is_file():
            return None
        check_file(stage.out, [page])
        put_file(stage.out, page.read_text(encoding="utf-8"))
        self._say(f"== {place}: {stage.out} is the gate's page, {page}")
        return Ended(stage.label, stage.out, 0.0), _PASSED

    def _inputs(self, stage: Stage) -> dict[str, str]:
        packs = next(Path(word.removeprefix("--packs=")) for word in _packs(stage))
        gates = Path(str(stage.asked["gates"].value)) if "gates" in stage.asked else DEFAULT_GATES
        tasks = Path(str(stage.asked["tasks_path"].value)) if "tasks_path" in stage.asked else None
        return gate_inputs(self._candidates, packs, gates, tasks)

    def _judged(self, stage: Stage, of: Mapping[str, str]) -> Parity | None:
        """What the gate came to of just that, if it has."""
        told = before(self._record, stage)
        if told is None or told.of != of or changes(self._record, stage):
            return None
        parity = judged(stage.out)
        return parity if parity is not None and parity.sha256 == told.sha256 else None

    def _begin(self, stage: Stage, place: str) -> tuple[Ended, int]:
        lines: list[str] = []
        looks = stage.out.is_dir() and stage.name != GATE  # the command says that it is up to date, or what differs
        if not looks:
            self._say(f"== {place}: {' '.join(shown_command(stage))}")
        began = time.monotonic()
        try:
            code = run_stage(stage, line=lines.append if looks else self._say, stdout=sys.stdout)
        except KeyboardInterrupt:
            self._say(f"== {place}: {stage.label} was interrupted; {AGAIN}")
            raise
        seconds = time.monotonic() - began
        if code < 0:
            raise UserError(
                f"{stage.label} was ended by signal {-code}, for want of memory or by somebody: give the same command "
                "again, it goes on where it was"
            )
        if looks and not code and not any(line.startswith("written ") for line in lines):
            return self._up_to_date(stage, place), code
        for line in lines:
            self._say(line)
        self._say(f"== {place}: {stage.label} took {duration(seconds)}")
        return Ended(stage.label, stage.out, seconds), code

    def _up_to_date(self, stage: Stage, place: str) -> Ended:
        self._say(f"== {place}: {stage.out} is up to date")
        return Ended(stage.label, stage.out, None)

    def _name(self, stage: Stage) -> str:
        return stage.out.name.removesuffix(LOCK_SUFFIX)

    def _was_judged(self, stage: Stage) -> bool:
        assert self._parity is not None
        return verdict_of(self._parity, self._name(stage)) != "incomplete"

    def _negative(self, stage: Stage) -> int:
        assert self._parity is not None
        return int(stage.name == LOCK and verdict_of(self._parity, self._name(stage)) != "pass")


def _packs(stage: Stage) -> list[str]:
    if "packs" in stage.asked:
        return [str(stage.asked["packs"].value)]
    return [word for word in stage.words if word.startswith("--packs=")]

"""From a recipe to the stages of a run: which commands, with which options, and where what they make lies.

Everything lies in one directory:

    OUT/packs               packs build
        split               packs split
        profile
        keep24, keep20      prune, one for each keep_n
        run                 gate: its results
        junit.xml
        report.html
        keep24.lock.json    lock, one for each
        run.json            record.py

A recipe says the base and where the data are once; what a stage needs from an earlier one is filled in.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.prune.methods import needing
from eaftgate.recipes.recipe import Section, Setting

BUILD, SPLIT, PROFILE, PRUNE, GATE, REPORT, LOCK = STAGES = (
    "build", "split", "profile", "prune", "gate", "report", "lock",
)  # fmt: skip
SECTION_OF = {BUILD: "packs build", SPLIT: "packs split"}
"""Of a stage whose command is called otherwise."""
FILLED_IN: Mapping[str, tuple[str, ...]] = {
    BUILD: ("out",),
    SPLIT: ("out",),
    PROFILE: ("out",),
    PRUNE: ("out",),
    GATE: ("results", "checkpoint"),
    REPORT: ("run_dir", "out"),
    LOCK: ("run_dir", "checkpoint", "out"),
}
"""What a run decides by itself."""
LOCK_SUFFIX = ".lock.json"


@dataclass(frozen=True)
class Layout:
    """Where things lie in the directory of a run."""

    out: Path

    @property
    def split(self) -> Path:
        return self.out / "split"

    @property
    def results(self) -> Path:
        return self.out / "run"

    @property
    def junit(self) -> Path:
        return self.out / "junit.xml"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def lock(self, name: str) -> Path:
        return self.out / f"{name}{LOCK_SUFFIX}"


@dataclass(frozen=True)
class Stage:
    """One command of a run. `name` is its kind, `label` its own; `words` are the command line after `eaftgate`, `asked`
    what the recipe says for it, with FILE:LINE, `out` what it makes; `gpus` processes of torchrun share it."""

    name: str
    label: str
    words: tuple[str, ...]
    asked: Mapping[str, Setting]
    out: Path
    gpus: int = 1

    @property
    def key(self) -> str:
        """Its own, however many checkpoints the recipe names."""
        return f"{self.name} {self.out.name.removesuffix(LOCK_SUFFIX)}" if self.name in (PRUNE, LOCK) else self.name


def section_of(stage: str) -> str:
    return SECTION_OF.get(stage, stage)


def stages_of(
    recipe: Path, sections: Mapping[str, Section], out: Path, *, to: str = LOCK, gpus: int = 1, workers: int = 1
) -> tuple[Stage, ...]:
    """The stages of a recipe, in their order, as far as `to`.

    Raises UserError when the recipe says what the run decides, or does not say what nothing else can.
    """
    said = {stage: sections.get(section_of(stage), {}) for stage in STAGES}
    for stage, options in FILLED_IN.items():
        for option in options:
            if option in said[stage]:
                raise UserError(
                    f"{said[stage][option].where}: {section_of(stage)}.{option} is where the run itself puts it: leave "
                    "it out, or write null to take back what an extended recipe says"
                )
    has = frozenset(stage for stage in STAGES if section_of(stage) in sections)
    plan = _Plan(recipe, Layout(out), has, said, base_of(recipe, sections), _candidates(recipe, said[PRUNE]))
    last = STAGES.index(to)
    return tuple(one for one in plan.stages(gpus, workers) if STAGES.index(one.name) <= last)


@dataclass(frozen=True)
class _Plan:
    """`has` are the stages that the recipe has a section for, `candidates` as `_candidates` has them."""

    recipe: Path
    layout: Layout
    has: frozenset[str]
    said: Mapping[str, Section]
    base: str
    candidates: Mapping[str, tuple[str, ...]]

    def stages(self, gpus: int, workers: int) -> Iterator[Stage]:
        place, results = self.layout.out, str(self.layout.results)
        several = len(self.candidates) > 1
        if BUILD in self.has:
            yield self._stage(BUILD, out=place / "packs")
        if self._splits:
            yield self._stage(SPLIT, *self._split_source(), out=self.layout.split)
        if self._profiles:
            yield self._stage(
                PROFILE, *self._named_base(PROFILE), *self._packs(PROFILE), out=place / "profile", gpus=gpus
            )
        for name, option in self.candidates.items():
            words = (*self._named_base(PRUNE), *self._for_prune(), *option)
            label = f"{PRUNE} {name}" if several else PRUNE
            yield self._stage(PRUNE, *words, out=place / name, label=label, without={"keep_n", "keep_frac"})
        yield self._gate(workers)
        yield self._stage(REPORT, results, out=self.layout.report)
        for name in self.candidates:
            label = f"{LOCK} {name}" if several else LOCK
            yield self._stage(LOCK, results, f"--checkpoint={place / name}", out=self.layout.lock(name), label=label)

    def _stage(
        self, name: str, *filled: str, out: Path, label: str = "", without: Container[str] = (), gpus: int = 1
    ) -> Stage:
        asked = {option: setting for option, setting in self.said[name].items() if option not in without}
        words = (*section_of(name).split(), *filled, f"--out={out}", *self._recipe(name))
        return Stage(name, label or name, words, asked, out, gpus)

    def _gate(self, workers: int) -> Stage:
        words = [GATE]
        words += [] if "base" in self.said[GATE] else [f"--base={self.base}"]
        words += [f"--checkpoint={self.layout.out / name}" for name in self.candidates]
        words += [*self._packs(GATE), f"--results={self.layout.results}", f"--junitxml={self.layout.junit}"]
        words += [f"--numprocesses={workers}"] if workers > 1 else []
        candidates = Setting(list(self.candidates), str(self.recipe))
        asked = {**self.said[GATE], "checkpoint": candidates}
        return Stage(GATE, GATE, (*words, "-q", *self._recipe(GATE)), asked, self.layout.results)

    def _recipe(self, name: str) -> tuple[str, ...]:
        return (f"--recipe={self.recipe}",) if name in self.has else ()

    @property
    def _splits(self) -> bool:
        return bool({BUILD, SPLIT} & self.has)

    @property
    def _profiles(self) -> bool:
        return PROFILE in self.has or not {"profile", "scores", "keep_sets"} & self.said[PRUNE].keys()

    def _named_base(self, stage: str) -> tuple[str, ...]:
        return () if "base" in self.said[stage] else (self.base,)

    def _split_source(self) -> tuple[str, ...]:
        if "dir" in self.said[SPLIT]:
            return ()
        if BUILD not in self.has:
            raise UserError(f"{self.recipe}: packs split.dir is missing: say which directory of packs is to be split")
        return (str(self.layout.out / "packs"),)

    def _packs(self, stage: str) -> tuple[str, ...]:
        if "packs" in self.said[stage]:
            return ()
        if not self._splits:
            raise UserError(
                f"{self.recipe}: {stage}.packs is missing: say where they are, or what is to be split, as in "
                "packs split: {dir: PACKS}"
            )
        side = "gate" if stage == GATE else "calibration"
        return (f"--packs={self.layout.split / side}",)

    def _for_prune(self) -> tuple[str, ...]:
        """A profile for whatever chooses, and its packs for what runs the model once more."""
        said = self.said[PRUNE]
        if not self._profiles or {"scores", "keep_sets"} & said.keys():
            return ()
        words = () if "profile" in said else (f"--profile={self.layout.out / 'profile'}",)
        runs = {*values_of(said, "method")} & {*needing("model")} or "true" in values_of(said, "pre_gate")
        if not runs or "packs" in said:
            return words
        given = values_of(self.said[PROFILE], "packs")
        return (*words, *([f"--packs={given[0]}"] if given else self._packs(PROFILE)))


def base_of(recipe: Path, sections: Mapping[str, Section]) -> str:
    """The base that the recipe names: once is enough. Raises UserError when it names none, or two."""
    named: dict[str, Setting] = {}
    for stage in (PROFILE, PRUNE, GATE):
        for base in values_of(sections.get(stage, {}), "base"):
            named.setdefault(base, sections[stage]["base"])
    if not named:
        raise UserError(
            f"{recipe}: profile.base is missing: say which checkpoint is to be pruned, a directory or a hub id"
        )
    if len(named) > 1:
        raise UserError(f"{list(named.values())[1].where}: the recipe names two bases: {', '.join(named)}")
    return next(iter(named))


def values_of(section: Section, option: str) -> list[str]:
    """What a recipe says of an option, once or several times; nothing where it says nothing."""
    value = section[option].value if option in section else []
    return [value] if isinstance(value, str) else value


def _candidates(recipe: Path, prune: Section) -> dict[str, tuple[str, ...]]:
    """The checkpoints that are made, by name, and what of the command line makes each another one than the others."""
    for option in ("keep_n", "keep_frac"):
        if option not in prune:
            continue
        wanted = values_of(prune, option)
        if not wanted or len(set(wanted)) < len(wanted):
            raise UserError(f"{prune[option].where}: prune.{option} must be numbers that differ, like [24, 20]")
        return {f"keep{one}": (f"--{option.replace('_', '-')}={one}",) for one in wanted}
    if "keep_sets" not in prune:
        raise UserError(f"{recipe}: prune.keep_n is missing: say how many experts a layer keeps, like 24 or [24, 20]")
    return {"pruned": ()}

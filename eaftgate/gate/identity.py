"""What a run was, for whoever reads of it later: when, by which command, where, of what. Nothing follows from it."""

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.source import resolve
from eaftgate.collect.collector import LIBRARIES
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.models import WORK_DIR
from eaftgate.gate.options import OTHER
from eaftgate.gate.plan import Plan
from eaftgate.gate.plugin import SUITE
from eaftgate.packs.blocks import tokenised
from eaftgate.packs.pack import Pack, read_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.records import Record
from eaftgate.rewrite.manifest import MANIFEST_FILE, own_manifest

NOT_SHOWN = "NOT_SHOWN"
RUN_FILE = "run.json"
"""Beside the run directory of a gate that `eaftgate run` has begun."""
_MAY_BE_SECRET = frozenset("@?#")


class PackIdentity(Record):
    """`rows` are those that there are to use; `left_out` says which are no conversations. `tokens` are those of all
    rows, as they are cut into blocks; None where more blocks would not have helped, and in files of earlier versions.
    """

    name: str
    rows: int
    left_out: str = ""
    tokens: int | None = None


class CheckpointIdentity(Record):
    """`name` is the one in test ids, `base` of the base. `bytes` are those of all tensors; `manifest` is the sha256 of
    manifest.json, and `keep` are the experts that were kept, by layer, where there is one. `storage` is the format of
    weights that are stored in none that eaftgate itself reads."""

    name: str
    given: str
    bytes: int
    experts: int
    method: str | None = None
    keep: tuple[tuple[int, ...], ...] = ()
    manifest: str | None = None
    storage: str | None = None


class RunIdentity(Record):
    """Times are in UTC, to the second. `command` can be given to a shell again, in `directory`. `results` is the run
    directory, as it was given. `by_recipe`: `eaftgate run` has begun it, so that its recipe is what can be changed."""

    started: str
    ended: str
    command: str
    directory: str
    results: str
    host: str
    system: str
    processors: int
    python: str
    libraries: Mapping[str, str]
    packs: tuple[PackIdentity, ...]
    checkpoints: tuple[CheckpointIdentity, ...]
    by_recipe: bool = False


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def library_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def identity_of(
    plan: Plan, arguments: Sequence[str], *, started: datetime, base: str | None, counts_tokens: bool = False
) -> RunIdentity:
    """Of a run that `arguments` of pytest began; `counts_tokens` of its packs, for which all rows are tokenised. What
    cannot be read is left out: that it cannot, the cases say."""
    results = plan.options.results
    places: dict[str, str | Path] = {} if base is None else {"base": base}
    places |= {
        name: results / WORK_DIR / name if plan.options.embedded else at for name, at in plan.checkpoints.items()
    }
    checkpoints = []
    for name, place in places.items():
        with suppress(UserError, OSError):
            other = name in plan.checkpoints and plan.options.candidate_kind == OTHER
            checkpoints.append(_checkpoint(name, open_checkpoint(place, foreign=other)))
    return RunIdentity(
        started=started.isoformat(),
        ended=now().isoformat(),
        command=command_line(arguments),
        directory=os.getcwd(),  # noqa: PTH109 (as it is)
        results=str(results),
        host=platform.node(),
        system=platform.platform(terse=True),
        processors=os.cpu_count() or 1,
        python=platform.python_version(),
        libraries=library_versions(),
        packs=_packs(plan.packs, base if counts_tokens else None),
        checkpoints=tuple(checkpoints),
        by_recipe=(results.parent / RUN_FILE).is_file(),
    )


def command_line(arguments: Sequence[str]) -> str:
    """What to give to a shell: `eaftgate gate` where that was what started pytest. What may be a secret in the URL of a
    server, which the gate refuses, is not in it."""
    words = [_told(word) for word in arguments]
    if words[:2] == ["-p", f"{SUITE.partition('.')[0]}.gate.plugin"] and SUITE in words:
        return shlex.join(["eaftgate", "gate", *words[words.index(SUITE) + 1 :]])
    return shlex.join(["pytest", *words])


def _told(word: str) -> str:
    name, _, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if "://" not in value or not _MAY_BE_SECRET & set(value):
        return word
    return f"{name}={NOT_SHOWN}" if name else NOT_SHOWN


def _packs(directory: Path | None, tokenizer_of: str | None) -> tuple[PackIdentity, ...]:
    with suppress(UserError):
        packs = [] if directory is None else read_packs(directory)
        count = None
        with suppress(UserError):
            count = None if tokenizer_of is None else _counter(tokenizer_of)
        return tuple(
            PackIdentity(
                name=pack.name, rows=len(pack), left_out=pack.left_out, tokens=None if count is None else count(pack)
            )
            for pack in packs
        )
    return ()


def _counter(base: str) -> Callable[[Pack], int]:
    """What says how many tokens there are to cut into blocks."""
    tokenizer = load_tokenizer(resolve(base, weights=False))
    return lambda pack: tokenised(pack, tokenizer.backend, eos_id=tokenizer.eos_id).num_tokens


def _checkpoint(name: str, found: Checkpoint) -> CheckpointIdentity:
    manifest = None
    with suppress(UserError):
        manifest = own_manifest(found.path)
    known = CheckpointIdentity(
        name=name, given=found.name, bytes=found.nbytes, experts=found.num_experts, storage=found.foreign
    )
    if manifest is None:
        return known
    made = {
        "method": manifest.selection.method,
        "keep": tuple(map(tuple, manifest.keep)),
        "manifest": sha256_file(found.path / MANIFEST_FILE),
    }
    return known.model_copy(update=made)

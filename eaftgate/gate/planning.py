"""From what a gate run is asked for to its plan, or to what is wrong with it."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from eaftgate.choices import listed
from eaftgate.collect.collector import Needs, Served
from eaftgate.collect.collectors import collector_kinds, options_of
from eaftgate.collect.servers.options import SERVERS
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.cells import BASE, BATCH, NOOP, RERUN, ULP, Cell
from eaftgate.gate.options import OTHER, PRUNED, SERVED
from eaftgate.gate.plan import V1, V2, Plan
from eaftgate.gate.profiling_seeds import local_manifests, profiling_groups
from eaftgate.gate.request import GateOptions
from eaftgate.judge.policy import IntervalPolicy, PointPolicy, Regime, is_primary, load_gates, pack_selection
from eaftgate.packs.pack import pack_paths
from eaftgate.prune.methods import KEEP_SETS
from eaftgate.rewrite.yardstick import own_yardstick
from eaftgate.tasks.harness import installed_version

DEFAULT_REGIME = "bigblocks"
FIXTURE_REGIME = "fixture"
ALL_TOKENS = "ppl_all"
"""What is only known where prompts are scored."""


def make_plan(options: GateOptions, *, fixture_packs: Path) -> Plan:
    """Raises UserError for options that contradict each other or name what is not there.

    The same files give the same plan in every process of a run. Manifests of local checkpoints are read, weights not.
    """
    needs = _needs(options)
    if needs.served is not None:
        options = _of_servers(options, needs.served)
    _check_named(options, fixture_packs)
    _check_numbers(options)
    gates = load_gates(options.gates)
    policy_name, policy = gates.policy(options.policy)
    if options.sequential and not isinstance(policy, IntervalPolicy):
        raise UserError(f"--sequential needs a policy with confidence bounds: {policy_name} has none")
    if options.best_of is not None and not isinstance(policy, IntervalPolicy):
        raise UserError(f"--best-of needs a policy with confidence bounds: {policy_name} has none")
    if options.whole_text and ALL_TOKENS not in policy.metrics:
        raise UserError(f"--whole-text needs a policy with a rule for {ALL_TOKENS}: {policy_name} has none")
    regime_name = options.regime or (FIXTURE_REGIME if options.embedded else DEFAULT_REGIME)
    regime = gates.regime(regime_name)
    available = [path.stem for path in pack_paths(options.packs or fixture_packs)]
    packs = pack_selection(regime, available)
    turns = _turns(options, policy_name, policy, regime, needs)
    _check_tasks(options, policy_name, policy, needs)
    seq_lens = tuple(dict.fromkeys(options.seq_lens)) or tuple(regime.seq_lens)
    none_primary = not set(seq_lens) & set(regime.primary.seq_lens)
    checkpoints = _short_names(options.checkpoints)
    if options.best_of is not None and options.best_of < len(checkpoints):
        raise UserError(
            f"--best-of is {options.best_of}, and {len(checkpoints)} checkpoints are given: it must count all of those "
            "that the best is chosen from"
        )
    manifests = local_manifests(checkpoints)
    groups = profiling_groups(manifests)
    unknown = {name for name, manifest in manifests.items() if manifest.provenance.get("method") == KEEP_SETS.name}
    yardsticks = _local_yardsticks(checkpoints) if options.candidate_kind == OTHER else {}
    if options.candidate_kind != PRUNED:
        unknown |= checkpoints.keys() - manifests.keys() - yardsticks.keys()
    if options.embedded:
        if regime.keep_n is None:
            raise UserError(f"regime {regime_name} says no keep_n, which the embedded checkpoint is pruned to")
        checkpoints = {f"keep{regime.keep_n}": f"keep{regime.keep_n}"}
    cells = tuple(
        Cell(
            checkpoint=checkpoint,
            pack=pack,
            seq_len=seq_len,
            num_blocks=options.num_blocks or regime.blocks_for(seq_len),
            primary=is_primary(regime, pack, seq_len, any_seq_len=none_primary),
            seed=options.seed,
        )
        for checkpoint in checkpoints or {BASE: BASE}
        for pack in packs
        for seq_len in seq_lens
    )
    if not any(cell.primary for cell in cells):
        raise UserError(f"no primary cell is planned: regime {regime_name} decides on {regime.primary.packs}")
    if len({cell.id for cell in cells}) < len(cells):
        raise UserError("checkpoint and pack names give the same test id twice: rename a checkpoint's directory")
    v1 = gates.policies.get(V1)
    if v1 is not None and not isinstance(v1, PointPolicy):
        raise UserError(f"policy {V1} of {options.gates} must be a rule on point estimates: it is the origin's")
    v2 = gates.policies.get(V2)
    return Plan(
        options=options,
        policy_name=policy_name,
        policy=policy,
        v1=v1,
        v2=v2 if isinstance(v2, IntervalPolicy) else None,
        regime_name=regime_name,
        regime=regime,
        checkpoints=checkpoints,
        cells=cells,
        needs=needs,
        profiling_groups=groups,
        rows_unknown=frozenset(unknown),
        gates_sha256=sha256_file(options.gates),
        packs=options.packs or fixture_packs,
        yardsticks=yardsticks,
        turns=turns,
        turn_tokens=options.generate_tokens or regime.generate_tokens,
        turn_packs=tuple(available) if turns and checkpoints else (),
        tasks=options.tasks if checkpoints else (),
    )


def _of_servers(options: GateOptions, served: Served) -> GateOptions:
    """Raises UserError where the models are named, too."""
    if options.base is not None or options.checkpoints:
        raise UserError(f"{SERVERS} is for models of which nothing is here: leave out --base and --checkpoint")
    if options.candidate_kind != PRUNED:
        raise UserError(f"{SERVERS} has candidates of a kind of their own: leave out --candidate-kind")
    return replace(options, base=served.base, checkpoints=served.candidates, candidate_kind=SERVED)


def _check_named(options: GateOptions, fixture_packs: Path) -> None:
    """Raises UserError where it is not said what to gate, or on what."""
    if options.embedded and not fixture_packs.is_dir():
        raise UserError(
            "the embedded checkpoint is not installed, a clone has it: "
            "give --checkpoint (or --base) and --packs, the model to gate and what to gate it on"
        )
    if not options.embedded and options.packs is None:
        needing = SERVERS if options.candidate_kind == SERVED else "--checkpoint and --base"
        raise UserError(f"{needing} need --packs: the directory of Parquet packs to gate on")
    if options.packs is not None and options.base is None and not options.checkpoints:
        raise UserError("--packs needs --checkpoint or --base: the model to gate on them")
    if options.candidate_kind == OTHER and not options.checkpoints:
        raise UserError(f"--candidate-kind={options.candidate_kind} needs --checkpoint: the candidate that is of it")


def _check_numbers(options: GateOptions) -> None:
    counts = {
        "--num-blocks": options.num_blocks,
        "--batch-size": options.batch_size,
        "--best-of": options.best_of,
        "--generate-tokens": options.generate_tokens,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    seeds = {"--seed": [options.seed] if options.seed is not None else [], "--seeds": options.seeds}
    for name, values in seeds.items():
        if negative := [value for value in values if value < 0]:
            raise UserError(f"{name} holds {negative[0]}: a seed is 0 or more")
    if too_short := [length for length in options.seq_lens if length < 2]:
        raise UserError(f"--seq-lens holds {too_short[0]}: a block needs at least 2 tokens")


def _turns(
    options: GateOptions, policy_name: str, policy: PointPolicy | IntervalPolicy, regime: Regime, needs: Needs
) -> int:
    """Of every pack. Raises UserError where turns were asked for that nothing judges, or nobody writes; where only the
    regime does, there are none."""
    judged = isinstance(policy, IntervalPolicy) and policy.behaviour is not None
    if options.generate is None:
        return regime.generate if judged and needs.writes else 0
    if options.generate < 0:
        raise UserError(f"--generate is {options.generate}: it must be at least 0")
    if options.generate and not judged:
        raise UserError(f"--generate needs a policy with a block behaviour: {policy_name} has none")
    if options.generate and not needs.writes:
        raise UserError(f"--generate needs a collector that writes: {options.collector} scores only")
    return options.generate


def _check_tasks(options: GateOptions, policy_name: str, policy: PointPolicy | IntervalPolicy, needs: Needs) -> None:
    """Raises UserError where tasks were asked for that nothing judges, or nobody can do. Which tasks there are is asked
    by `hooks.start`: to read their names takes longer than to plan."""
    if not options.tasks:
        for name, given in (
            ("--tasks-path", options.tasks_path),
            ("--tasks-chat-template", options.tasks_chat_template),
        ):
            if given:
                raise UserError(f"{name} needs --tasks: the names of the tasks to do")
        return
    if not (isinstance(policy, IntervalPolicy) and policy.tasks is not None):
        raise UserError(f"--tasks needs a policy with a block tasks: {policy_name} has none")
    if not needs.lends:
        raise UserError(
            f"--tasks needs the model in the gate's own process, which --collector={options.collector} has not: take "
            "another collector, or give lm_eval the server and compare what it prints"
        )
    if options.tasks_path is not None and not options.tasks_path.is_dir():
        raise UserError(f"--tasks-path is {options.tasks_path}, which is no directory: it holds task files (*.yaml)")
    installed_version()


def _needs(options: GateOptions) -> Needs:
    kinds = collector_kinds()
    if options.collector not in kinds:
        raise UserError(
            f"--collector is {options.collector!r}: it must be one of {listed(kinds, meant=options.collector)}"
        )
    for option in (f"--{name.replace('_', '-')}" for name in options.of_collector):
        owners = [name for name, kind in kinds.items() if option in options_of(kind)]
        if options.collector not in owners:
            raise UserError(f"{option} is for --collector={' or '.join(owners)}")
    return kinds[options.collector].needs(options.given_to_collector)


def _local_yardsticks(checkpoints: Mapping[str, str]) -> dict[str, int]:
    """Of those that are directories, by name; one that is damaged is for the checkpoint's own cases to report."""
    found = {}
    for name, source in checkpoints.items():
        with suppress(UserError, OSError):
            if record := own_yardstick(Path(source)):
                found[name] = record.bits
    return found


def _short_names(given: tuple[str, ...]) -> dict[str, str]:
    """Directory or repository names; equal ones get a number, as do the reserved names."""
    names: dict[str, str] = {}
    for source in dict.fromkeys(given):
        name = Path(source).resolve().name if Path(source).exists() else _name_elsewhere(source)
        numbered = (name, *(f"{name}-{number}" for number in range(2, len(given) + 4)))
        free = next(candidate for candidate in numbered if candidate not in (BASE, NOOP, RERUN, BATCH, ULP, *names))
        names[free] = source
    return names


def _name_elsewhere(source: str) -> str:
    """Of a repository, or of a server's URL."""
    _, is_url, place = source.partition("://")
    return re.sub(r"[^\w.]+", "-", place).strip("-") if is_url else source.split("@")[0].split("/")[-1]

"""Values on the command line: numbers, names, paths, texts."""

from collections.abc import Callable, Iterator

from attacks.attack import Attack, Box

NO_NUMBERS = (
    "",
    " ",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0x10",
    "1_000_",
    "1,5",
    "--1",
    "1" * 5000,
    "-1",
    "-1e30",
)
NO_COUNTS = (*NO_NUMBERS, "1.5", "1e3", "true", str(1 << 64), str(10**30))
PRUNE = {"--keep-n": "4", "--method": "random"}
NO_WEIGHTS = (
    "",
    " ",
    ",",
    "call",
    "call=",
    "=1",
    "call=x",
    "call=nan",
    "call=inf",
    "call=-1",
    "call=1,call=2",
    "cal=1",
    "call=1,",
    "balanced,balanced",
    "balance",
    "call=0x1",
    "call=" + "1" * 5000,
    "call=1e308,final=1e308",
    "type_power=nan",
    "a" * 5000,
    "header=0,analysis=0,final=0,commentary=0,call=0,other=0,close=0",
)
FRACTIONS = ("0", "2", "1.0000001", "-0.5")


def prune(*options: str) -> Callable[[Box], list[object]]:
    """`options` over those of a sound command."""
    given = PRUNE | dict(zip(options[::2], options[1::2], strict=True))
    return lambda box: ["prune", box.base(), *(word for pair in given.items() for word in pair), "--out", box.out]


def by_profile(*options: str) -> Callable[[Box], list[object]]:
    return lambda box: [
        "prune", box.base(), "--profile", box.profile(), "--keep-n", "4", "--method", "eaft-reap", *options,
        "--out", box.out,
    ]  # fmt: skip


def profile(*options: str) -> Callable[[Box], list[object]]:
    return lambda box: [
        "profile", box.base(), "--packs", box.packs(), "--seq-len", "64", "--num-rows", "4", *options, "--out", box.out,
    ]  # fmt: skip


def split(*options: str) -> Callable[[Box], list[object]]:
    return lambda box: ["packs", "split", box.packs(), *options, "--out", box.out]


def cost(*options: str) -> Callable[[Box], list[object]]:
    return lambda box: ["cost", box.base(), "--keep-n", "4", *options]


def sweep(*options: str) -> Callable[[Box], list[object]]:
    return lambda box: [
        "sweep", box.base(), "--profile", box.profile(), "--packs", box.packs(), "--keep-n", "4", "--methods", "reap",
        *options, "--out", box.out,
    ]  # fmt: skip


NUMBERS: dict[str, tuple[Callable[..., Callable[[Box], list[object]]], tuple[str, ...]]] = {
    "--seed": (prune, NO_COUNTS),
    "--keep-n": (prune, (*NO_COUNTS, "0", "3", "5", "9")),
    "--w-good": (by_profile, NO_NUMBERS[:-2]),
    "--w-conflict": (by_profile, NO_NUMBERS[:-2]),
    "--w-uncertain": (by_profile, NO_NUMBERS[:-2]),
    "--max-positions": (by_profile, (*NO_COUNTS, "0")),
    "--class-weight": (by_profile, ()),
    "--calib-frac": (split, (*NO_NUMBERS, *FRACTIONS, "1")),
    "--num-rows": (profile, (*NO_COUNTS, "0")),
    "--seq-len": (profile, (*NO_COUNTS, "0", "1")),
    "--batch-size": (profile, (*NO_COUNTS, "0")),
    "--tokens-per-second": (cost, (*NO_NUMBERS, "0")),
    "--score-frac": (sweep, (*NO_NUMBERS, *FRACTIONS, "1")),
}


def attacks() -> Iterator[Attack]:
    for option, (command, values) in NUMBERS.items():
        for value in values:
            yield Attack(f"{option} {value[:20]!r}", command(option, value), says=_named(option))
    for value in (*NO_NUMBERS, *FRACTIONS):
        yield Attack(f"--keep-frac {value[:20]!r}", _keep_frac(value), says="")
    for value in NO_WEIGHTS:
        yield Attack(f"--class-weight {value[:30]!r}", by_profile("--class-weight", value), says="--class-weight")
    yield Attack("--class-weight balanced", by_profile("--class-weight", "balanced"), "accepted")
    yield from _names()
    yield from _paths()
    yield Attack("cost has no option to allow any", lambda box: ["cost", box.base(), "--keep-n", 5], then=_no_advice)
    yield Attack("prune has one", prune("--keep-n", "5"), says="--allow-any-keep-n")


def _named(option: str) -> str:
    return "" if option in ("--keep-n",) else option


def _keep_frac(value: str) -> Callable[[Box], list[object]]:
    return lambda box: ["prune", box.base(), "--keep-frac", value, "--method", "random", "--out", box.out]


def _no_advice(box: Box, ended: object) -> str:  # noqa: ARG001
    return "it advises an option that the command lacks" if "--allow-any" in str(ended) else ""


def _names() -> Iterator[Attack]:
    """An enumeration suggests what is close."""
    close = {
        "--method refind": (prune("--method", "refind"), "did you mean 'refined'"),
        "--method EAFT-REAP": (prune("--method", "EAFT-REAP"), "did you mean 'eaft-reap'"),
        "--alignment tokn": (by_profile("--alignment", "tokn"), "did you mean 'token'"),
        "--regime bigblock": (cost("--regime", "bigblock"), "did you mean 'bigblocks'"),
        "--policy": (
            lambda box: ["budgets", box.run(), "--policy", "near-losles-v2"],
            "did you mean 'near-lossless-v2'",
        ),
        "--methods": (sweep("--methods", "rep-mass"), "did you mean 'reap-mass'"),
        "--vary": (sweep("--vary", "uncertan=1"), "did you mean 'uncertain'"),
        "--vary alignment": (sweep("--vary", "alignment=tokn"), "did you mean 'token'"),
        "--class-weight": (by_profile("--class-weight", "cal=1"), "did you mean 'call'"),
        "--dtype": (profile("--dtype", "bfloat"), "did you mean 'bfloat16'"),
        "a command": (lambda box: ["prun", box.base()], "Did you mean 'prune'"),
        "an option": (lambda box: ["prune", box.base(), "--keepn", "4"], "--keep-n"),
        "a recipe's option": (_recipe("packs split: {calib_fra: 0.5}"), "did you mean 'calib_frac'"),
        "a recipe's command": (_recipe("packs splt: {seed: 1}"), "did you mean 'packs split'"),
    }
    for name, (make, says) in close.items():
        yield Attack(f"close: {name}", make, says=says)
    for value in ("", "zzz", "a" * 5000, "reap,ean", "\u202e"):
        yield Attack(f"--method {value[:20]!r}", prune("--method", value), says="--method")
        yield Attack(f"--device {value[:20]!r}", profile("--device", value), says="device")
        yield Attack(f"--dtype {value[:20]!r}", profile("--dtype", value), says="dtype")
        yield Attack(f"--regime {value[:20]!r}", cost("--regime", value), says="--regime")
        yield Attack(f"--methods {value[:20]!r}", sweep("--methods", "x" + value), says="--methods")
        yield Attack(f"--vary {value[:20]!r}", sweep("--vary", value), says="--vary")


def _recipe(text: str) -> Callable[[Box], list[object]]:
    return lambda box: ["packs", "split", box.packs(), "--recipe", box.file("r.yaml", text), "--out", box.out]


def _paths() -> Iterator[Attack]:
    """Paths that are none."""
    values = {
        "empty": "", "a blank": " ", "5000 characters": "a" * 5000, "a device": "/dev/null", "a NUL": "a\0b",
        "not UTF-8": "\udcff",
    }  # fmt: skip
    for name, value in values.items():
        makes: dict[str, Callable[[Box], list[object]]] = {
            "BASE": lambda box, value=value: ["prune", value, "--keep-n", 8, "--out", box.out],  # type: ignore[misc]
            "--profile": by_profile("--profile", value),
            "--scores": lambda box, value=value: [
                "prune",
                box.base(),
                "--scores",
                value,
                "--keep-n",
                4,
                "--out",
                box.out,
            ],  # type: ignore[misc]
            "--keep-sets": lambda box, value=value: ["prune", box.base(), "--keep-sets", value, "--out", box.out],  # type: ignore[misc]
            "--packs": profile("--packs", value),
            "--recipe": split("--recipe", value),
            "--gates": lambda box, value=value: ["budgets", box.run(), "--gates", value],  # type: ignore[misc]
            "RUN_DIR": lambda box, value=value: ["report", value, "--out", box.out],  # type: ignore[misc]
            "LOCKFILE": lambda _, value=value: ["verify", value],  # type: ignore[misc]
            "CKPT_DIR": lambda box, value=value: ["overlap", value, box.pruned()],  # type: ignore[misc]
        }
        for option, make in makes.items():
            yield Attack(f"{option} is {name}", make)

"""The options of the gate, for whoever adds them: pytest's command line, a recipe, the help of `eaftgate gate`.

Only the standard library is imported here: the plugin, which every pytest run of an environment loads, needs the names.
"""

from collections.abc import Callable
from pathlib import Path


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


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


def option_names() -> list[str]:
    """Every option as it is given, like `--base`."""
    names: list[str] = []
    gate_options(lambda name, **_: names.append(name))
    return names

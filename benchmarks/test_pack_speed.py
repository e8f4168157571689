"""Building blocks, beyond the time that the tokenizer itself takes for the same rows."""

from statistics import median
from typing import Any, cast

from tokenizers import Encoding, Tokenizer

from benchmarks.alternation import seconds
from benchmarks.measuring import Figure, Report
from eaftgate.packs.blocks import build_blocks
from eaftgate.packs.pack import Pack
from eaftgate.packs.tokenizer import PackTokenizer

TOKENS = 1 << 20


class TimedTokenizer:
    """Adds up the seconds that `encode_batch` takes."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self.seconds = 0.0

    def encode_batch(self, texts: list[str], **options: Any) -> list[Encoding]:
        encodings: list[Encoding] = []
        self.seconds += seconds(lambda: encodings.extend(self._backend.encode_batch(texts, **options)))
        return encodings


def test_pack(union: Pack, tokenizer: PackTokenizer, pytestconfig: Any, benchmark: Any, report: Report) -> None:
    """The reference is timed inside the subject, so there is nothing to alternate."""
    seq_len = pytestconfig.getoption("seq_len")
    total_s: list[float] = []
    encode_s: list[float] = []

    def build() -> None:
        timed = TimedTokenizer(tokenizer.backend)
        backend = cast(Tokenizer, timed)
        shape = {"seq_len": seq_len, "num_blocks": TOKENS // seq_len}
        total_s.append(seconds(lambda: build_blocks(union, backend, eos_id=tokenizer.eos_id, **shape)))
        encode_s.append(timed.seconds)

    rounds = pytestconfig.getoption("rounds")
    benchmark.pedantic(build, rounds=rounds, warmup_rounds=1)
    beyond = median(total - encode for total, encode in zip(total_s[-rounds:], encode_s[-rounds:], strict=True))
    tokens = TOKENS // seq_len * seq_len
    report(
        Figure(
            f"{beyond:.2f} s beyond the tokenizer",
            f"{median(encode_s[-rounds:]):.2f} s in encode_batch",
            tokens / beyond / 1e6,
            "M tokens/s a core",
            at_least=1.0,
            note=f"{tokens:,} tokens",
        )
    )

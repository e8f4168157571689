"""The loss of a run's candidates in units that people know: what rounding the experts of the same base costs."""

from eaftgate.gate.results import Parity, ParityCell
from eaftgate.packs.pack import UNION


def yardstick_lines(parity: Parity) -> list[str]:
    """One sentence for each yardstick of the run and each length of UNION, if there are other candidates."""
    bits = {candidate.name: candidate.yardstick_bits for candidate in parity.candidates}
    cells = [cell for cell in parity.cells if cell.pack == UNION]
    return [
        _line(stick, number, others)
        for stick in cells
        if (number := bits.get(stick.name)) is not None
        and (others := [c for c in cells if c.seq_len == stick.seq_len and c.name != stick.name])
    ]


def _line(stick: ParityCell, bits: int, others: list[ParityCell]) -> str:
    where, what = f"{UNION} {stick.seq_len}", f"rounding the experts to {bits} bits costs"
    loss, lower = _loss(stick), stick.metrics["ppl"].lower if "ppl" in stick.metrics else None
    if loss <= 0 or (lower is not None and lower <= 0):
        return f"{where}: what {what} ({loss:+.2%}) cannot be told from nothing, so that nothing is measured by it"
    shares = ", ".join(f"{cell.name} loses {_times(_loss(cell) / loss)}" for cell in others)
    return f"{where}: {shares} what {what} ({loss:+.2%})"


def _loss(cell: ParityCell) -> float:
    """Relative change of perplexity."""
    return cell.ppl / cell.ppl_base - 1


def _times(share: float) -> str:
    return f"{share:.1f} times" if share >= 0.05 else "next to nothing of"

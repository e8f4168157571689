"""The report's table for who comes from llama.cpp: what llama-perplexity --kl-divergence would say, of our tokens."""

from collections.abc import Iterator

from eaftgate.gate.results import Parity, ParityCell
from eaftgate.report.rows import Cell, row, table

METRIC = "top20_kld"
_HEAD = {"maximum": "maximum", "p99_9": "99.9 %", "p99": "99 %", "p95": "95 %", "p90": "90 %", "median": "median"}
_WHAT = (
    "What llama-perplexity --kl-divergence prints, of content tokens: ln of the ratio of perplexities, the KL "
    "divergence (nats) of the candidate's predictions from the base's, its mean and its distribution over tokens, and "
    "how often both think the same token most likely. The divergence is a lower bound, of the ids in both models' top "
    "20, the reference and two buckets; unshared is the base's probability outside the ids in both. The figure below "
    "is the standard error that llama.cpp prints, as if no token had to do with another: bounds that know of documents "
    "are in the table above. Nothing here decides."
)


def divergence_section(parity: Parity) -> str:
    """HTML; nothing where the policy does not measure it."""
    cells = [cell for cell in parity.cells if METRIC in cell.metrics and METRIC in cell.details]
    if not cells:
        return ""
    head = ("checkpoint", "pack", "seq_len", "ln PPL ratio", "mean KLD", *_HEAD.values(), "same top", "unshared")
    body = [row("td", list(_figures(cell)), advisory=not cell.decides_something) for cell in cells]
    return (
        f'<h2 id="divergence">Beside llama.cpp</h2><details><summary>Divergence of predictions</summary>'
        f'{table(head, body, label="divergence")}<p class="note">{_WHAT}</p></details>'
    )


def _figures(cell: ParityCell) -> Iterator[str | Cell]:
    said = cell.details[METRIC]
    estimates = {metric: found.estimate for metric, found in cell.metrics.items()}
    yield from (cell.name, cell.pack, str(cell.seq_len))
    for metric, error in (("ppl", "ppl_iid_standard_error"), (METRIC, "iid_standard_error")):
        yield Cell(_number(estimates.get(metric)), "", f"± {_number(said.get(error))}")
    yield from (_number(said.get(name)) for name in _HEAD)
    yield _number(estimates.get("same_top1"), "{:.3%}")
    yield _number(said.get("unshared"))


def _number(value: float | None, form: str = "{:.5f}") -> str:
    return "-" if value is None else form.format(value)

"""What a build says to people."""

from collections.abc import Iterator

from eaftgate.chats.build import BuildReport


def lines_of(report: BuildReport) -> Iterator[str]:
    if report.up_to_date:
        yield f"{report.file} is up to date"
    yield f"{report.pack}: {report.rows} of {report.read} rows"
    for found in report.left_out:
        said = found.said.removeprefix(f"{found.reason}: ")
        yield f"  {found.rows} left out: {found.reason}"
        yield f"    first: {found.place}" + ("" if said == found.reason else f": {said}")
    for name, rows in report.not_read.items():
        yield f"  not in the texts: {name} ({rows} rows)"
    if report.is_suspect:
        yield (
            f"  {report.malformed / report.read:.1%} of the rows are malformed: look at the first of each reason "
            "before you trust the others"
        )
    if not report.up_to_date:
        yield f"written to {report.file}"

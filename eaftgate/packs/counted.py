"""What there is in a directory of packs: rows, those that are left out, those that are there twice."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq

from eaftgate.packs.harmony import assistant_messages
from eaftgate.packs.pack import Pack, pack_paths, read_pack


@dataclass(frozen=True)
class CountedPack:
    """Of `rows`, `malformed` are left out, as `left_out` says. `twice`: rows whose text an earlier row of the pack has.
    `silent`: rows without an assistant message."""

    pack: str
    rows: int
    malformed: int
    left_out: str
    twice: int
    silent: int
    domains: int


@dataclass(frozen=True)
class SharedRows:
    """Texts that two packs have."""

    packs: tuple[str, str]
    rows: int


def count_packs(directory: Path) -> tuple[list[CountedPack], list[SharedRows]]:
    """Raises UserError for packs that cannot be read, or with more malformed rows than a pack may have."""
    paths = pack_paths(directory)
    packs = [read_pack(path) for path in paths]
    counted = [_counted(pack, pq.read_metadata(path).num_rows) for path, pack in zip(paths, packs, strict=True)]
    texts = {pack.name: set(pack.identities) for pack in packs}
    pairs = ((pair, len(texts[pair[0]] & texts[pair[1]])) for pair in combinations(texts, 2))
    return counted, [SharedRows(pair, rows) for pair, rows in pairs if rows]


def _counted(pack: Pack, rows: int) -> CountedPack:
    return CountedPack(
        pack=pack.name,
        rows=rows,
        malformed=rows - len(pack),
        left_out=pack.left_out,
        twice=len(pack) - len(set(pack.identities)),
        silent=sum(not assistant_messages(text) for text in pack.texts),
        domains=len(set(pack.domains) - {""}),
    )

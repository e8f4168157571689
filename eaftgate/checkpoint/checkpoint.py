"""Opening a checkpoint directory: nothing is believed that has not been checked.

After `open_checkpoint` every byte range in `Checkpoint.tensors` lies inside its file, and the configuration,
the index, the shard headers and what the model class needs agree with each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eaftgate.checkpoint.complete import check_complete, check_scaled
from eaftgate.checkpoint.config import read_config
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.checkpoint.shards import ADAPTER_FILES, INDEX_FILE, SINGLE_FILE, read_tensors
from eaftgate.checkpoint.source import resolve
from eaftgate.checkpoint.stamps import Stamp, stamp_if_there
from eaftgate.errors import UserError
from eaftgate.families.family import Dimensions, Family
from eaftgate.files import sha256_file
from eaftgate.strict_json import read_object

CONFIG_FILE = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint: its name, what it says of itself, and where every tensor lies."""

    path: Path
    name: str
    """As the user gave it: a directory or a hub id."""
    config: dict[str, Any] = field(repr=False)
    family: Family = field(repr=False)
    dimensions: Dimensions
    tensors: Mapping[str, TensorEntry] = field(repr=False)
    """Tensor name -> entry; shards in sorted order, within a shard in file order."""
    is_mxfp4: bool
    """Whether the experts are stored as MXFP4 blocks and scales (or dequantised)."""
    foreign: str | None
    """The format that its weights are stored in, where only the loader of that format knows which there must be."""
    stamps: dict[str, Stamp | None] = field(repr=False)
    """Of the files that a loader reads, and of those that it would if they were there (None), taken before they were
    read, or when they were last found to be the same (`unchanged`)."""
    texts: Mapping[str, str | None] = field(repr=False)
    """sha256 of each of TOKENIZER_FILES, which are of no digest of weights."""

    @property
    def num_layers(self) -> int:
        """Layers with experts; other layers are nobody's business but the family's."""
        return len(self.dimensions.moe_layers)

    @property
    def num_experts(self) -> int:
        """Experts per such layer."""
        return self.dimensions.num_experts

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self.dimensions.top_k

    @property
    def vocab_size(self) -> int:
        return self.dimensions.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.dimensions.hidden_size

    @property
    def intermediate_size(self) -> int:
        return self.dimensions.intermediate_size

    @property
    def shards(self) -> list[Path]:
        """The safetensors files, sorted by name."""
        return [self.path / name for name in sorted({entry.shard for entry in self.tensors.values()})]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def by_layer(self, keep: Sequence[Sequence[int]]) -> dict[int, Sequence[int]]:
        """Keep sets, one for every layer with experts, by the number of the layer in the model."""
        return dict(zip(self.dimensions.moe_layers, keep, strict=True))


def open_checkpoint(source: str | Path, *, foreign: bool = False) -> Checkpoint:
    """Open the checkpoint that `source` names (a directory, or a hub id `org/name[@revision]`).

    `foreign`: also one whose weights are stored in a format of which the family knows nothing (FP8, AWQ, ...). Whether
    all that are needed are there is then not known before they are loaded (`model.load`).
    Raises UserError, one sentence, for everything that is not a consistent checkpoint of a known family in safetensors.
    """
    path = resolve(source)
    try:
        return _open(path, str(source), foreign=foreign)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}: {error.filename}); check its permissions") from None


def _open(path: Path, name: str, *, foreign: bool) -> Checkpoint:
    shards = [file.name for file in path.glob("*.safetensors")]
    read = (CONFIG_FILE, INDEX_FILE, SINGLE_FILE, *ADAPTER_FILES, *TOKENIZER_FILES)
    stamps = {name: stamp_if_there(path / name) for name in (*read, *shards)}
    texts = {name: text_digest(path / name) for name in TOKENIZER_FILES}
    config = read_object(path / CONFIG_FILE, what="the model configuration")
    family, dimensions = read_config(config, where=path / CONFIG_FILE)
    tensors = read_tensors(path)
    storage = family.foreign_storage(config) if foreign else None
    if storage is None:
        is_mxfp4 = family.check(path, config, dimensions, tensors)
        needed = family.needed(config, dimensions, is_mxfp4=is_mxfp4, where=path / CONFIG_FILE)
        check_complete(path, config, family, needed, tensors)
    else:
        is_mxfp4 = False
        check_scaled(path, tensors)
    used = {entry.shard for entry in tensors.values()}
    stamps = {file: stamp for file, stamp in stamps.items() if file in used or file in read}
    held = MappingProxyType(tensors)
    return Checkpoint(path, name, config, family, dimensions, held, is_mxfp4, storage, stamps, texts)


def text_digest(file: Path) -> str | None:
    """sha256 of a file; None where there is none."""
    return sha256_file(file) if file.is_file() else None

"""Finding the tensors of a checkpoint directory: one safetensors file, or an index and its shards."""

import re
from pathlib import Path

from eaftgate.checkpoint.header import TensorEntry, read_header
from eaftgate.errors import UserError
from eaftgate.strict_json import read_object, shown

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_NUMBERED = re.compile(r".*\d+-of-\d+\.safetensors")
_REPAIR = "take the index and the shards from the same revision"


def read_tensors(path: Path) -> dict[str, TensorEntry]:
    """Tensor name -> entry for the directory `path`; shards in sorted order, within a shard in file order.

    The index is followed only to plain file names in `path` itself, and index and shards must name the same
    tensors; some tools write an index of a single file, too. Raises UserError.
    """
    has_single, has_index = _is_there(path / SINGLE_FILE), _is_there(path / INDEX_FILE)
    if has_single or has_index:
        _check_no_adapter(path, alone=False)
    if has_index:
        tensors = _read_sharded(path)
        if has_single and any(entry.shard != SINGLE_FILE for entry in tensors.values()):
            raise UserError(
                f"{path} has both {SINGLE_FILE} and {INDEX_FILE}; remove the one that is not the checkpoint"
            )
        return tensors
    if has_single:
        return _sized(read_header(path / SINGLE_FILE), path / SINGLE_FILE)
    _check_no_adapter(path, alone=True)
    if others := sorted(file.name for file in path.iterdir() if ".safetensors" in file.suffixes):
        raise UserError(
            f"{path} has neither {SINGLE_FILE} nor {INDEX_FILE}, but {others[0]!r}"
            f"{f' and {len(others) - 1} more' if others[1:] else ''}, which loaders do not look for; "
            f"{'add the index' if _NUMBERED.fullmatch(others[0]) else 'rename them'} if that is the checkpoint"
        )
    if any(file.suffix in PICKLE_SUFFIXES for file in path.iterdir()):
        raise UserError(f"{path} has only pickled weights, which can run code when loaded; convert them to safetensors")
    raise UserError(f"{path} has neither {SINGLE_FILE} nor {INDEX_FILE}; give a complete checkpoint directory")


def _is_there(file: Path) -> bool:
    return file.exists() or file.is_symlink()


def _read_sharded(path: Path) -> dict[str, TensorEntry]:
    where = path / INDEX_FILE
    index = read_object(where, what="the shard index")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{where}: weight_map must map tensor names to shard files; take a fresh copy of the file")
    for name, shard in weight_map.items():
        if not _is_shard_name(shard):
            raise UserError(
                f"{where}: tensor {shown(name)} points to {shown(shard)}, which is not a plain *.safetensors "
                "file name; do not use this checkpoint"
            )
    if not isinstance(index.get("metadata", {}), dict):  # of what it says, like total_size, nothing is taken
        raise UserError(f"{where}: metadata must be a JSON object; take a fresh copy of the file")
    tensors: dict[str, TensorEntry] = {}
    for shard in sorted(set(weight_map.values())):
        for name, entry in read_header(path / shard).items():
            if weight_map.get(name) != shard:
                raise UserError(
                    f"{path / shard}: tensor {shown(name)} is not assigned to this shard by {where}; {_REPAIR}"
                )
            tensors[name] = entry
    if missing := weight_map.keys() - tensors.keys():
        name = min(missing)
        raise UserError(f"{where}: tensor {shown(name)} is not in {weight_map[name]}; {_REPAIR}")
    return _sized(tensors, where)


def _is_shard_name(shard: object) -> bool:
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not shard.startswith(".")
        and not any(char in shard for char in "/\\:\0")
        and shard.isprintable()
    )


def _check_no_adapter(path: Path, *, alone: bool) -> None:
    """transformers applies an adapter that lies beside the weights where peft is installed, and not elsewhere."""
    for name in ADAPTER_FILES:
        if (path / name).exists():
            raise UserError(
                f"{path} holds only an adapter ({name}); merge it into the checkpoint that it was made for"
                if alone
                else f"{path} has {name} beside its weights, which changes the model where peft is installed and not "
                "elsewhere; merge the adapter, or move its files away"
            )


def _sized(tensors: dict[str, TensorEntry], where: Path) -> dict[str, TensorEntry]:
    if not tensors:
        raise UserError(f"{where} holds no tensors; take a fresh copy of the checkpoint")
    return tensors

"""What a checkpoint on the Hub is, by its configuration and the headers of its files: no weights are downloaded."""

from pathlib import Path
from types import MappingProxyType

import huggingface_hub

from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint, open_checkpoint
from eaftgate.checkpoint.complete import check_complete
from eaftgate.checkpoint.config import read_config
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.checkpoint.source import HUB_ID, cached
from eaftgate.errors import UserError
from eaftgate.strict_json import read_object


def describe_checkpoint(source: str) -> Checkpoint:
    """The checkpoint of a hub id, for its sizes: out of the local cache where it is whole, else as the Hub says it,
    with offsets that count from where a file's data begins. Nothing of it can be read.

    Raises UserError when the Hub cannot be reached, or has no checkpoint of a known family there.
    """
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise UserError(f"{source[:200]!r} is not an existing directory; check the path, or give a hub id org/name")
    try:
        return open_checkpoint(cached(match["repo"], match["revision"]))
    except UserError:
        pass
    try:
        where = huggingface_hub.hf_hub_download(match["repo"], CONFIG_FILE, revision=match["revision"])
        told = huggingface_hub.get_safetensors_metadata(match["repo"], revision=match["revision"])
    except Exception as error:  # the HTTP client's have no common base
        raise UserError(f"the Hub does not tell of {source} ({type(error).__name__})") from None
    tensors = {
        name: TensorEntry(name, info.dtype, tuple(info.shape), shard, *info.data_offsets)
        for shard, file in sorted(told.files_metadata.items())
        for name, info in file.tensors.items()
    }
    file, path = Path(where), Path(where).parent
    config = read_object(file, what="the model configuration")
    family, dimensions = read_config(config, where=file)
    is_mxfp4 = family.check(path, config, dimensions, tensors)
    check_complete(path, config, family, family.needed(config, dimensions, is_mxfp4=is_mxfp4, where=file), tensors)
    return Checkpoint(path, source, config, family, dimensions, MappingProxyType(tensors), is_mxfp4, None, {}, {})

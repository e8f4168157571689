"""A checkpoint directory is opened only when all of its parts agree."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import (
    Size,
    Tensor,
    build_tensors,
    write_index,
    write_shard,
    write_tiny_checkpoint,
)

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00003.safetensors"
SECOND = "model-00002-of-00003.safetensors"
PREFIX = "model.layers.1.mlp."


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    write_tiny_checkpoint(root / "sharded", num_shards=3)
    write_tiny_checkpoint(root / "single")
    return root


@pytest.fixture
def sharded(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine / "sharded", tmp_path / "sharded"))


@pytest.fixture
def single(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine / "single", tmp_path / "single"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


@pytest.mark.parametrize("mxfp4", [True, False])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_open(tmp_path: Path, mxfp4: bool, num_shards: int) -> None:
    tensors = write_tiny_checkpoint(tmp_path / "base", mxfp4=mxfp4, num_shards=num_shards)
    checkpoint = open_checkpoint(str(tmp_path / "base"))
    assert checkpoint.name == str(tmp_path / "base")
    assert (checkpoint.num_layers, checkpoint.num_experts, checkpoint.top_k) == (3, 8, 4)
    assert (checkpoint.hidden_size, checkpoint.intermediate_size) == (64, 32)
    assert checkpoint.is_mxfp4 is mxfp4
    assert len(checkpoint.shards) == num_shards
    assert checkpoint.nbytes == sum(tensor.array.nbytes for tensor in tensors.values())
    for name, tensor in tensors.items():
        entry = checkpoint.tensors[name]
        data = (checkpoint.path / entry.shard).read_bytes()[entry.begin : entry.end]
        assert (entry.dtype, entry.shape, data) == (tensor.dtype, tensor.array.shape, tensor.array.tobytes())


def test_hub_snapshot_of_links(sharded: Path, tmp_path: Path) -> None:
    """A hub snapshot is links into a blobs directory."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in sharded.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert open_checkpoint(snapshot).num_experts == 8


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "sub/model.safetensors",
        "/etc/model.safetensors",
        "..\\outside.safetensors",
        "C:model.safetensors",
        ".hidden.safetensors",
        "model.bin",
        "model.safetensors\0",
        "model\n.safetensors",
        "",
        3,
        None,
        ["model.safetensors"],
        {},
    ],
)
def test_index_cannot_leave_the_directory(sharded: Path, shard: Any) -> None:
    shutil.copy(sharded / FIRST, sharded.parent / "outside.safetensors")
    edit(sharded / INDEX, lambda index: index["weight_map"].update({"model.norm.weight": shard}))
    assert "not a plain *.safetensors file name" in refusal(sharded)


def test_linked_directory_below_the_root_is_no_shard(sharded: Path) -> None:
    (sharded / "link").symlink_to(sharded.parent)
    edit(sharded / INDEX, lambda index: index["weight_map"].update({"model.norm.weight": "link/x.safetensors"}))
    assert "not a plain" in refusal(sharded)


def truncate(path: Path, *, size: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(size)


def drop_tensor(directory: Path, name: str) -> None:
    """Remove a tensor from the single-file checkpoint."""
    tensors = build_tensors(Size(), mxfp4=True, vocab_size=265)
    del tensors[name]
    write_shard(directory / "model.safetensors", tensors)


Fault = Callable[[Path], object]


def in_turn(*faults: Fault) -> Fault:
    return lambda directory: [fault(directory) for fault in faults]


def no_weights(directory: Path) -> None:
    for file in directory.glob("model*"):
        file.unlink()


SHARDED_FAULTS: dict[str, tuple[Fault, str]] = {
    "missing_shard": (lambda d: (d / SECOND).unlink(), "missing or not a regular file"),
    "shard_is_directory": (
        in_turn(lambda d: (d / SECOND).unlink(), lambda d: (d / SECOND).mkdir()),
        "not a regular file",
    ),
    "shard_is_fifo": (in_turn(lambda d: (d / SECOND).unlink(), lambda d: os.mkfifo(d / SECOND)), "not a regular file"),
    "dangling_link": (
        in_turn(lambda d: (d / SECOND).unlink(), lambda d: (d / SECOND).symlink_to("nowhere")),
        "not a regular file",
    ),
    "truncated_shard": (lambda d: truncate(d / SECOND, size=30_000), "where its header describes"),
    "truncated_header": (lambda d: truncate(d / SECOND, size=100), "announces a header"),
    "zero_bytes": (lambda d: truncate(d / SECOND, size=0), "too few"),
    "garbage": (lambda d: (d / SECOND).write_bytes(bytes(range(256)) * 9), "announces a header"),
    "shards_swapped": (
        lambda d: (
            (d / FIRST).rename(d / "x"),
            (d / SECOND).rename(d / FIRST),
            (d / "x").rename(d / SECOND),
        ),
        "is not assigned to this shard",
    ),
    "index_lacks_tensor": (
        lambda d: edit(d / INDEX, lambda index: index["weight_map"].pop("model.norm.weight")),
        "is not assigned to this shard",
    ),
    "index_has_extra_tensor": (
        lambda d: edit(d / INDEX, lambda index: index["weight_map"].update(extra=FIRST)),
        "tensor 'extra' is not in",
    ),
    "metadata_not_object": (lambda d: edit(d / INDEX, lambda i: i.update(metadata=[])), "metadata"),
    "weight_map_empty": (lambda d: edit(d / INDEX, lambda i: i.update(weight_map={})), "weight_map"),
    "weight_map_missing": (lambda d: edit(d / INDEX, lambda i: i.pop("weight_map")), "weight_map"),
    "index_not_object": (lambda d: (d / INDEX).write_text("[]"), "must be a JSON object"),
    "index_empty": (lambda d: (d / INDEX).write_text(""), "not valid JSON"),
    "index_duplicate_key": (lambda d: (d / INDEX).write_text('{"a":1,"a":1}'), "duplicate key"),
    "single_file_too": (lambda d: shutil.copy(d / FIRST, d / "model.safetensors"), "has both"),
    "no_config": (lambda d: (d / "config.json").unlink(), "is missing"),
    "no_weights": (no_weights, "has neither"),
    "only_pickles": (
        in_turn(no_weights, lambda d: (d / "pytorch_model.bin").write_bytes(b"x")),
        "pickled",
    ),
}


@pytest.mark.parametrize("fault", SHARDED_FAULTS)
def test_sharded_fault_is_refused(sharded: Path, fault: str) -> None:
    plant, expected = SHARDED_FAULTS[fault]
    plant(sharded)
    assert expected in refusal(sharded)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.pop("metadata"),
        lambda index: index["metadata"].pop("total_size"),
        lambda index: index["metadata"].update(total_size=1),
        lambda index: index["metadata"].update(total_size="12"),
        lambda index: index["metadata"].update(total_size=None, total_parameters=[], mergekit_version="0.1"),
        lambda index: index.update(extra={}),
    ],
)
def test_what_an_index_says_beside_its_map_is_not_asked(sharded: Path, change: Callable[[Any], object]) -> None:
    """Merging tools write numbers of tensors there; the headers say how much there is."""
    edit(sharded / INDEX, change)
    assert open_checkpoint(sharded).num_layers == 3


def test_files_that_no_loader_looks_at_may_lie_beside_the_weights(sharded: Path) -> None:
    for name in ("model.fp16.safetensors", "pytorch_model.bin", "training_args.bin", "consolidated.safetensors", "x"):
        (sharded / name).write_bytes(b"x")
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (sharded / name).unlink()
    assert open_checkpoint(sharded).num_layers == 3


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_refused(sharded: Path, name: str) -> None:
    """transformers would apply it where peft is installed, and not elsewhere."""
    (sharded / name).write_text("{}")
    assert f"has {name} beside its weights" in refusal(sharded)
    no_weights(sharded)
    assert f"holds only an adapter ({name}); merge it" in refusal(sharded)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 4792272488\n" % (b"0" * 64)


@pytest.mark.parametrize("name", [FIRST, SECOND, INDEX, "config.json"])
def test_a_git_lfs_pointer_is_called_one(sharded: Path, name: str) -> None:
    (sharded / name).write_bytes(POINTER)
    said = "is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned"
    assert refusal(sharded) == f"{sharded / name} {said}"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.bf16.safetensors"], "but 'model.bf16.safetensors', which loaders do not look for; rename them"),
        (["model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"],
         "but 'model.fp16-00001-of-00002.safetensors' and 1 more, which"),
        (["model.fp16.safetensors.index.json"], "but 'model.fp16.safetensors.index.json', which"),
        ([FIRST, SECOND], f"but '{FIRST}' and 1 more, which loaders do not look for; add the index if"),
    ],
)  # fmt: skip
def test_weights_by_another_name_are_named(single: Path, names: list[str], said: str) -> None:
    for name in names:
        shutil.copy(single / "model.safetensors", single / name)
    (single / "model.safetensors").unlink()
    assert said in refusal(single)


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "other_model": ({"model_type": "mixtral"}, "is not gpt-oss"),
    "other_architecture": ({"architectures": ["LlamaForCausalLM"]}, "is not gpt-oss"),
    "auto_map": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    "experts_string": ({"num_local_experts": "8"}, "num_local_experts is '8'"),
    "experts_bool": ({"num_local_experts": True}, "num_local_experts is True"),
    "experts_zero": ({"num_local_experts": 0}, "num_local_experts is 0"),
    "experts_negative": ({"num_local_experts": -8}, "num_local_experts is -8"),
    "experts_disagree": ({"num_local_experts": 16}, "where config.json says [16,"),
    "layers_fewer": ({"num_hidden_layers": 2}, "num_hidden_layers is 2"),
    "layers_more": ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
    "top_k_disagree": ({"experts_per_token": 2}, "disagree"),
    "top_k_too_large": ({"num_experts_per_tok": 9, "experts_per_token": 9}, "impossible"),
    "hidden_disagrees": ({"hidden_size": 96}, "has shape"),
    "hidden_no_multiple": ({"hidden_size": 65}, "multiples of 32"),
    "vocabulary_disagrees": ({"vocab_size": 1000}, "tensor 'lm_head.weight' has shape"),
    "not_quantised": ({"quantization_config": None}, "quantization_config says None"),
    "other_quantisation": ({"quantization_config": {"quant_method": "fp8"}}, "stored as 'fp8', says"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_config_fault_is_refused(single: Path, fault: str) -> None:
    changes, expected = CONFIG_FAULTS[fault]
    edit(single / "config.json", lambda config: config.update(changes))
    assert expected in refusal(single)


@pytest.mark.parametrize("key", ["num_experts_per_tok", "experts_per_token"])
def test_either_name_of_top_k_will_do(single: Path, key: str) -> None:
    edit(single / "config.json", lambda config: config.pop(key))
    assert open_checkpoint(single).top_k == 4


@pytest.mark.parametrize(
    "part",
    [
        "experts.gate_up_proj_blocks",
        "experts.down_proj_scales",
        "experts.down_proj_bias",
        "router.weight",
        "router.bias",
    ],
)
def test_missing_expert_tensor_is_named(single: Path, part: str) -> None:
    drop_tensor(single, PREFIX + part)
    assert PREFIX + part in refusal(single)


@pytest.mark.parametrize(
    "part",
    ["experts.gate_up_proj_scales", "experts.down_proj_blocks", "experts.gate_up_proj_bias", "router.weight"],
)
def test_expert_axis_that_disagrees_is_named(single: Path, part: str) -> None:
    tensors = build_tensors(Size(), mxfp4=True, vocab_size=265)
    tensor = tensors[PREFIX + part]
    write_shard(single / "model.safetensors", tensors | {PREFIX + part: Tensor(tensor.dtype, tensor.array[:7])})
    message = refusal(single)
    assert PREFIX + part in message
    assert "has shape [7, " in message
    assert "where config.json says [8, " in message


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.3.w1.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.00.mlp.router.weight",
        "model.layers.x.weight",
    ],
)
def test_tensor_that_nobody_can_slice_is_refused(single: Path, name: str) -> None:
    tensors = build_tensors(Size(), mxfp4=True, vocab_size=265)
    extra = Tensor("BF16", np.zeros((8, 64), np.uint16))
    write_shard(single / "model.safetensors", tensors | {name: extra})
    assert "is not part of the gpt-oss MXFP4 layout" in refusal(single)


def test_layers_with_a_gap(tmp_path: Path) -> None:
    tensors = write_tiny_checkpoint(tmp_path / "base")
    renamed = {name.replace("layers.2.", "layers.3."): tensor for name, tensor in tensors.items()}
    write_shard(tmp_path / "base" / "model.safetensors", renamed)
    assert "3 layers up to number 3" in refusal(tmp_path / "base")


def test_blocks_and_scales_may_lie_in_different_shards_of_the_input(tmp_path: Path) -> None:
    tensors = write_tiny_checkpoint(tmp_path / "base")
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith("_scales")}
    others = {name: tensor for name, tensor in tensors.items() if name not in scales}
    (tmp_path / "base" / "model.safetensors").unlink()
    shards = {"a.safetensors": others, "b.safetensors": scales}
    for shard, held in shards.items():
        write_shard(tmp_path / "base" / shard, held)
    write_index(tmp_path / "base", shards)
    assert len(open_checkpoint(tmp_path / "base").shards) == 2


def test_unreadable_file(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path, *__: object, **___: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for reader in ("open", "read_bytes", "read_text"):  # simulated, because root may read everything
        monkeypatch.setattr(Path, reader, refuse)
    assert "cannot be read" in refusal(single)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CONFIG_KEYS = st.sampled_from(
    [
        "model_type",
        "architectures",
        "num_hidden_layers",
        "num_local_experts",
        "num_experts_per_tok",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "quantization_config",
        "experts_per_token",
    ]
)


def opens_or_is_refused(directory: Path) -> None:
    message = ""
    try:
        open_checkpoint(directory)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    message.encode()  # must be printable: no lone surrogates


@given(st.dictionaries(CONFIG_KEYS, json_values, min_size=1, max_size=3))
def test_fuzz_config(pristine: Path, changes: dict[str, Any]) -> None:
    directory = pristine / "single"
    original = (directory / "config.json").read_bytes()
    try:
        edit(directory / "config.json", lambda config: config.update(changes))
        opens_or_is_refused(directory)
    finally:
        (directory / "config.json").write_bytes(original)


@given(
    st.dictionaries(st.sampled_from(["weight_map", "metadata"]), json_values, max_size=2),
    st.dictionaries(st.sampled_from(["model.norm.weight", "lm_head.weight", "x"]), json_values, max_size=2),
)
def test_fuzz_index(pristine: Path, changes: dict[str, Any], weights: dict[str, Any]) -> None:
    directory = pristine / "sharded"
    original = (directory / INDEX).read_bytes()
    try:
        edit(directory / INDEX, lambda index: (index["weight_map"].update(weights), index.update(changes)))
        opens_or_is_refused(directory)
    finally:
        (directory / INDEX).write_bytes(original)


@given(st.sampled_from(["config.json", INDEX]), st.binary(max_size=60))
def test_fuzz_json_bytes(pristine: Path, name: str, data: bytes) -> None:
    directory = pristine / "sharded"
    original = (directory / name).read_bytes()
    try:
        (directory / name).write_bytes(data)
        with pytest.raises(UserError):
            open_checkpoint(directory)
    finally:
        (directory / name).write_bytes(original)

"""The weights of a checkpoint, what config.json says of them, and what lies beside them."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import Tensor, write_index, write_shard, write_tiny_checkpoint

from attacks.attack import Attack, Box, Expected, edited
from eaftgate.checkpoint.header import read_header

Tensors = dict[str, Tensor]
NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"
QUERY, SINKS = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.sinks"
ROUTER, EXPERTS = "model.layers.1.mlp.router.weight", "model.layers.1.mlp.experts."
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 4792272488\n" % (b"0" * 64)
GONE = ...
"""Of a key of config.json."""


@dataclass(frozen=True)
class Case:
    """A checkpoint that is sound but for what is done to its tensors, its config.json and then to its directory."""

    name: str
    tensors: Callable[[Tensors], object] = lambda _: None
    config: dict[str, Any] = field(default_factory=dict)
    then: Callable[[Path], object] = lambda _: None
    says: str = ""
    mxfp4: bool = True
    shards: int = 1

    def make(self, directory: Path) -> Path:
        tensors = write_tiny_checkpoint(directory, mxfp4=self.mxfp4)
        self.tensors(tensors)
        (directory / SINGLE).unlink()
        names = [SINGLE] if self.shards == 1 else [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
        held = {shard: {n: t for i, (n, t) in enumerate(tensors.items()) if i % len(names) == place}
                for place, shard in enumerate(names)}  # fmt: skip
        for shard, some in held.items():
            write_shard(directory / shard, some)
        if self.shards > 1:
            write_index(directory, held)
        said = json.loads((directory / "config.json").read_text(encoding="utf-8")) | self.config
        said = {key: value for key, value in said.items() if value is not GONE}
        (directory / "config.json").write_text(json.dumps(said), encoding="utf-8")
        self.then(directory)
        return directory


def drop(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


def add(name: str, like: str = NORM) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[like]})


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], object]:
    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return rename


def reshaped(name: str, change: Callable[[Any], Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update(
        {name: Tensor(tensors[name].dtype, np.ascontiguousarray(change(tensors[name].array)))}
    )


def retyped(name: str, dtype: str, width: Any = np.uint8) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: Tensor(dtype, np.ones(tensors[name].array.shape, width))})


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(content)


def without(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def emptied(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def of_index(**said: Any) -> Callable[[Path], object]:
    def change(index: dict[str, Any]) -> None:
        index.update(said)
        for key in [key for key, value in said.items() if value is GONE]:
            del index[key]

    return lambda directory: edited(directory / INDEX, change)


def moved(old: str, new: str) -> Callable[[Path], object]:
    return lambda directory: (directory / old).rename(directory / new)


def as_float32(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype == "BF16":
            tensors[name] = Tensor("F32", (tensor.array.astype(np.uint32) << 16).view(np.float32))


def hub_layout(directory: Path) -> None:
    """A snapshot of links to blobs, as the Hub's cache has them."""
    blobs = directory.with_name("blobs")
    blobs.mkdir()
    for number, file in enumerate(sorted(directory.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../blobs/{number}")


def index_of_one(directory: Path) -> None:
    """As MLX writes a checkpoint."""
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(read_header(directory / SINGLE), SINGLE)}
    (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")


def sound() -> Iterator[Case]:
    head, buffer = add(HEAD, EMBEDDING), add("model.layers.0.self_attn.rotary_emb.inv_freq")
    for mxfp4 in (True, False):
        kind = "MXFP4" if mxfp4 else "plain"
        yield Case(f"{kind}, one file", mxfp4=mxfp4)
        yield Case(f"{kind}, shards", mxfp4=mxfp4, shards=2)
        yield Case(f"{kind}, tied", drop(HEAD), {"tie_word_embeddings": True}, mxfp4=mxfp4)
        yield Case(f"{kind}, tied and stored all the same", head, {"tie_word_embeddings": True}, mxfp4=mxfp4)
        yield Case(f"{kind}, float32", as_float32, mxfp4=mxfp4)
        yield Case(f"{kind}, links as in the Hub's cache", then=hub_layout, mxfp4=mxfp4, shards=2)
        yield Case(f"{kind}, num_experts, too", config={"num_experts": 8}, mxfp4=mxfp4)
    yield Case("one file and its index", then=index_of_one)
    yield Case("num_experts alone", config={"num_experts": 8, "num_local_experts": GONE})
    yield Case("num_experts_per_tok alone", config={"experts_per_token": GONE})
    yield Case("experts_per_token alone, the usual number", config={"num_experts_per_tok": GONE})
    yield Case("keys that have a default left out", config={"attention_bias": GONE, "tie_word_embeddings": GONE})
    yield Case("a buffer that transformers once wrote", buffer)
    yield Case("norms in float16", retyped(NORM, "F16", np.uint16))
    odd: dict[str, Any] = {"_attn_implementation": "flash_attention_2", "return_dict": False, "use_cache": False,
                           "sliding_window": None, "dtype": "int8", "num_nextn_predict_layers": 3}  # fmt: skip
    for key, value in odd.items():
        yield Case(f"{key} is {json.dumps(value)}", config={key: value})
    for content in (b"{", b"[]", b"\xff", b'{"temperature": -1, "do_sample": 3}'):
        yield Case(f"generation_config.json is {content!r}", then=written("generation_config.json", content))
    totals: dict[str, Any] = {
        "total_size is a number of tensors": 71,
        "total_size is text": "1 GB",
        "no total_size": GONE,
    }
    for name, total in totals.items():
        yield Case(name, shards=2, then=of_index(metadata={} if total is GONE else {"total_size": total}))
    yield Case("no metadata in the index", shards=2, then=of_index(metadata=GONE))
    for name in ("model.fp16.safetensors", "pytorch_model.bin", "training_args.bin", "optimizer.pt", "README.md"):
        yield Case(f"{name} beside", then=written(name, b"x"))
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        yield Case(f"no {name}", then=without(name))


def tensors_refused() -> Iterator[Case]:
    for name in (NORM, HEAD, EMBEDDING, QUERY, SINKS, ROUTER, f"{EXPERTS}down_proj_bias", f"{EXPERTS}down_proj_scales"):
        yield Case(f"{name} is missing", drop(name), says=name)
    yield Case("plain, experts are missing", drop(f"{EXPERTS}down_proj"), mxfp4=False, says=f"{EXPERTS}down_proj")
    yield Case(
        "a layer is missing", lambda t: [t.pop(n) for n in list(t) if ".layers.2." in n], says="num_hidden_layers"
    )
    yield Case("a layer too many", config={"num_hidden_layers": 2, "layer_types": GONE}, says="num_hidden_layers")
    yield Case("names with a wrapper's prefix", renamed("base_model.{}".format), says="base")
    yield Case("names without their prefix", renamed(lambda name: name.removeprefix("model.")), says="base")
    yield Case("names of another writer", renamed(lambda n: n.replace("self_attn", "attn")), says="self_attn")
    yield Case("tied by config.json, untied by its weights", config={"tie_word_embeddings": True}, says=HEAD)
    yield Case("untied, without a head", drop(HEAD), {"tie_word_embeddings": GONE}, says=HEAD)
    for name in (
        "model.norm.bias", f"{QUERY}.lora_A.weight", "v_head.summary.weight", "model.layers.0.self_attn.k_scale",
        "_extra_state", "x", "", "a\nb", "[bold]", "model.layers.0.mlp.gate.weight",
    ):  # fmt: skip
        yield Case(f"{name!r} too many", add(name), says="base")
    for name, change in {
        QUERY: lambda a: a.T[:, :32], NORM: lambda a: a[None], HEAD: lambda a: a[:-1], EMBEDDING: lambda a: a[:, :32],
        SINKS: lambda a: a[:3], ROUTER: lambda a: a.T, f"{EXPERTS}down_proj_bias": lambda a: a[:4],
        f"{EXPERTS}gate_up_proj_blocks": lambda a: a.reshape(a.shape[0], a.shape[1], -1),
    }.items():  # fmt: skip
        yield Case(f"{name} in another shape", reshaped(name, change), says=name)
    yield Case("nothing of a norm", reshaped(NORM, lambda a: a[:0]), says=NORM)
    yield Case("a norm without dimensions", reshaped(NORM, lambda a: a[0].reshape(())), says=NORM)
    for dtype in ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ"):
        yield Case(f"norm as {dtype}", retyped(NORM, dtype), says=dtype)
    for dtype, width in (
        ("I16", np.uint16),
        ("U16", np.uint16),
        ("I32", np.uint32),
        ("I64", np.uint64),
        ("C64", np.uint64),
    ):
        yield Case(f"norm as {dtype}", retyped(NORM, dtype, width), says=dtype)
    for part in ("blocks", "scales"):
        for dtype in ("I8", "BOOL", "F8_E8M0", "F8_E4M3"):
            yield Case(f"{part} as {dtype}", retyped(f"{EXPERTS}down_proj_{part}", dtype), says=dtype)


def configs_refused() -> Iterator[Case]:
    wrong: dict[str, Any] = {
        "num_attention_heads": [8, 2, 3, 0, "4", GONE], "num_key_value_heads": [1, 4, 3, 0, GONE],
        "head_dim": [8, 15, 0, "16"], "num_experts": [16, "8", None], "num_local_experts": [16, 7],
        "experts_per_token": [2], "attention_bias": [False, "yes", None], "tie_word_embeddings": [1, "no"],
        "vocab_size": [264, 266], "hidden_size": [128], "intermediate_size": [64],
        "sliding_window": [0, -8, "8"], "rope_parameters": [{"rope_theta": 10_000.0}],
        "auto_map": [{"AutoModel": "x.Y"}],
    }  # fmt: skip
    for key, values in wrong.items():
        for value in values:
            said = "left out" if value is GONE else json.dumps(value)
            yield Case(f"{key} is {said}", config={key: value}, says="base")
    yield Case("only another engine's experts_per_token", config={"num_experts_per_tok": GONE, "experts_per_token": 2},
               says="num_experts_per_tok")  # fmt: skip
    for method in ("fp8", "compressed-tensors", "bitsandbytes", "awq", "gptq", "modelopt", "fbgemm_fp8"):
        yield Case(f"{method} by its name", config={"quantization_config": {"quant_method": method}}, says=method)
    yield Case("bitsandbytes by its keys", config={"quantization_config": {"load_in_4bit": True}}, says="bitsandbytes")
    yield Case("no quant_method", config={"quantization_config": {}}, mxfp4=False, says="quant_method")
    yield Case(
        "plain, said to be MXFP4", config={"quantization_config": {"quant_method": "mxfp4"}}, mxfp4=False, says="mxfp4"
    )
    yield Case("MXFP4, not said", config={"quantization_config": GONE}, says="MXFP4")
    for suffix, said in {"qweight": "GPTQ", "weight_packed": "compressed-tensors", "weight.absmax": "bitsandbytes",
                         "weight_scale_inv": "FP8"}.items():  # fmt: skip
        yield Case(f"{said} by its tensors", add(f"{QUERY.removesuffix('weight')}{suffix}"), mxfp4=False, says=said)


def directories_refused() -> Iterator[Case]:
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        yield Case(f"{name} beside", then=written(name, b"{}"), says=name)
    yield Case("an adapter alone", then=moved(SINGLE, "adapter_model.safetensors"), says="only an adapter")
    for name in (SINGLE, "config.json"):
        yield Case(f"{name} is a pointer", then=written(name, POINTER), says="git lfs pull")
    for name in (INDEX, "model-00002-of-00002.safetensors"):
        yield Case(f"{name} is a pointer", then=written(name, POINTER), shards=2, says="git lfs pull")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"):
        yield Case(f"{name} is a pointer", then=written(name, POINTER), says="git lfs pull")
    for name in ("model.bf16.safetensors", "model.fp16.safetensors", "consolidated.safetensors", "weights.safetensors"):
        yield Case(f"{name} alone", then=moved(SINGLE, name), says=name)
    for name in ("model.fp16.safetensors.index.json", "model.safetensors.index.fp16.json"):
        yield Case(f"{name} alone", then=moved(INDEX, name), shards=2, says="model")
    yield Case("shards without an index", then=without(INDEX), shards=2, says="add the index")
    yield Case("one file and shards", then=written(SINGLE, b"x"), shards=2, says="has both")
    yield Case("pickles alone", then=moved(SINGLE, "pytorch_model.bin"), says="pickled")
    yield Case("an empty directory", then=emptied, says="config.json")


def found_when_it_runs() -> Iterator[Case]:
    """What only a command minds that runs the model."""
    wrong: dict[str, Any] = {
        "layer_types": [["full_attention"], ["x"] * 3, "full_attention", [1, 2, 3]], "hidden_act": [3],
        "rms_norm_eps": ["x", None], "rope_parameters": [3, {"rope_type": "x"}],
        "rope_scaling": ["yarn", {"rope_type": "yarn"}],
        "max_position_embeddings": ["x"], "swiglu_limit": ["x"], "attention_dropout": ["x"],
    }  # fmt: skip
    for key, values in wrong.items():
        for value in values:
            yield Case(f"{key} is {json.dumps(value)}", config={key: value}, says="base")


def profile(box: Box) -> list[object]:
    return ["profile", box.path / "base", "--packs", box.packs(), "--seq-len", 64, "--num-rows", 4, "--out", box.out]


COMMANDS: dict[str, Callable[[Box], Sequence[object]]] = {
    "prune": lambda box: ["prune", box.path / "base", "--keep-n", 8, "--out", box.out],
    "profile": profile,
    "yardstick": lambda box: ["yardstick", box.path / "base", "--out", box.out],
    "cost": lambda box: ["cost", box.path / "base", "--keep-n", 8],
}  # fmt: skip


def attack(command: str, case: Case, expected: Expected, *, slow: bool = False) -> Attack:
    def make(box: Box) -> Sequence[object]:
        case.make(box.path / "base")
        return COMMANDS[command](box)

    return Attack(f"{command}: {case.name}", make, expected, case.says, slow=slow)


def attacks() -> Iterator[Attack]:
    for case in sound():
        yield attack("prune", case, "accepted")
        yield attack("profile", case, "accepted", slow=case.then is hub_layout or case.shards == 1)
    refused = [*tensors_refused(), *configs_refused(), *directories_refused()]
    for place, case in enumerate(refused):
        yield attack("prune", case, "refused")
        if "pointer" in case.name:  # which of them a command minds depends on what it reads
            continue
        yield attack("profile", case, "refused", slow=place % 6 > 0)
        if place % 6 == 0:
            yield attack("yardstick", case, "refused")
            yield attack("cost", case, "refused")
    for case in found_when_it_runs():
        yield attack("profile", case, "refused")

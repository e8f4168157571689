"""Another family than gpt-oss passes through opening, pruning, rewriting and judging by its Protocol alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from tiny_checkpoint import write_tiny_checkpoint
from toy_family import CONFIG, EXPERTS, MOE_LAYERS, ToyFamily, pruned, write_toy_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.errors import UserError
from eaftgate.families.family import Family
from eaftgate.families.registry import FAMILIES, family_of
from eaftgate.judge.policy import load_gates
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.report.cost import estimate_cost
from eaftgate.rewrite.integrity import check_artifact, compare_tensors
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.rewrite.perturb import make_perturbed
from eaftgate.rewrite.rewrite import rewrite_checkpoint

KEEP = [[0, 2, 3, 5], [1, 2, 4, 5]]
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Family:
    family: Family = ToyFamily()
    monkeypatch.setitem(FAMILIES, family.model_type, family)
    return family


@pytest.fixture
def made(tmp_path: Path) -> tuple[Checkpoint, Arrays]:
    arrays = write_toy_checkpoint(tmp_path / "base")
    return open_checkpoint(tmp_path / "base"), arrays


@pytest.fixture
def base(made: tuple[Checkpoint, Arrays]) -> Checkpoint:
    return made[0]


@pytest.fixture
def out(base: Checkpoint, tmp_path: Path) -> Path:
    rewrite_checkpoint(base, KEEP, tmp_path / "out", provenance={})
    return tmp_path / "out"


def stored(directory: Path) -> Arrays:
    """As the safetensors library reads them."""
    found: Arrays = {}
    for shard in directory.glob("*.safetensors"):
        found |= safetensors.numpy.load_file(shard)
    return found


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_opened(base: Checkpoint, toy: Family) -> None:
    assert base.family is toy
    assert (base.dimensions.num_layers, list(base.dimensions.moe_layers)) == (5, [1, 3])
    assert (base.num_layers, base.num_experts, base.top_k) == (2, EXPERTS, 2), "layers are those with experts"


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 4_000])
def test_experts_are_dropped_and_numbered_anew(
    made: tuple[Checkpoint, Arrays], tmp_path: Path, max_shard_bytes: int
) -> None:
    base, arrays = made
    rewrite_checkpoint(base, KEEP, tmp_path / "out", provenance={}, max_shard_bytes=max_shard_bytes)
    assert_same(stored(tmp_path / "out"), pruned(arrays, KEEP))
    candidate, manifest = open_checkpoint(tmp_path / "out"), read_manifest(tmp_path / "out")
    assert (len(candidate.shards) > 1) == (max_shard_bytes == 4_000)
    assert candidate.config == CONFIG | {"experts": 4}
    assert check_artifact(candidate, base, manifest, base_digest=checkpoint_digest(base)) == []
    assert compare_tensors(candidate, base, KEEP) == []
    for name, entry in candidate.tensors.items():  # what the family wants together is together
        if name.endswith(".up") and ".experts." in name:
            assert entry.shard == candidate.tensors[name.removesuffix("up") + "down"].shard


def test_the_mapping_numbers_the_layers_of_the_model(out: Path) -> None:
    mapping = json.loads((out / "expert_mapping.json").read_text(encoding="utf-8"))
    assert list(mapping["layers"]) == ["1", "3"]
    assert mapping["layers"]["3"] == {"1": 0, "2": 1, "4": 2, "5": 3}


def test_all_experts_kept_is_the_same_checkpoint(made: tuple[Checkpoint, Arrays], tmp_path: Path) -> None:
    base, arrays = made
    everything = [list(range(EXPERTS))] * len(MOE_LAYERS)
    rewrite_checkpoint(base, everything, tmp_path / "out", provenance={}, allow_any_keep_n=True)
    assert_same(stored(tmp_path / "out"), arrays)


def test_a_method_that_needs_no_model_prunes_it(made: tuple[Checkpoint, Arrays], tmp_path: Path) -> None:
    base, arrays = made
    prune_checkpoint(base, checkpoint_digest(base), None, PruneRequest(keep_n=4, method="random"), tmp_path / "out")
    keep = read_manifest(tmp_path / "out").keep
    assert len(keep) == len(MOE_LAYERS)
    assert_same(stored(tmp_path / "out"), pruned(arrays, keep))


def test_a_keep_set_for_the_dense_layer_is_one_too_many(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cover 3 layers, the checkpoint has 2"):
        rewrite_checkpoint(base, [[0, 1, 2, 3], *KEEP], tmp_path / "out", provenance={})


def flip(out: Path, name: str) -> None:
    entry = open_checkpoint(out).tensors[name]
    data = bytearray((out / entry.shard).read_bytes())
    data[entry.end - 1] ^= 1
    (out / entry.shard).write_bytes(data)


@pytest.mark.parametrize("name", ["layers.3.experts.1.up", "layers.1.router", "layers.2.down", "head"])
def test_a_flipped_bit_is_found(base: Checkpoint, out: Path, name: str) -> None:
    assert compare_tensors(open_checkpoint(out), base, KEEP) == []
    flip(out, name)
    assert compare_tensors(open_checkpoint(out), base, KEEP) == [
        f"tensor {name!r} differs from the base's kept experts"
    ]
    (problem,) = check_artifact(open_checkpoint(out), base, read_manifest(out))
    assert problem.endswith("does not have the sha256 of the manifest")


def test_another_expert_under_a_kept_ones_name_is_found(base: Checkpoint, out: Path) -> None:
    other = [KEEP[0], [1, 3, 4, 5]]
    found = {problem.split("'")[1] for problem in compare_tensors(open_checkpoint(out), base, other)}
    assert found == {"layers.3.experts.1.up", "layers.3.experts.1.down", "layers.3.router"}


def test_a_tensor_too_few_and_one_too_many(base: Checkpoint, out: Path) -> None:
    """A checkpoint of five experts held to keep sets of four, and the other way round."""
    five = [[0, 1, 2, 3, 5], [0, 1, 2, 4, 5]]
    found = compare_tensors(open_checkpoint(out), base, five)
    assert "tensor 'layers.1.experts.4.up' is only in the base" in found
    shutil.rmtree(out)
    rewrite_checkpoint(base, five, out, provenance={}, allow_any_keep_n=True)
    assert "tensor 'layers.1.experts.4.up' is not in the base" in compare_tensors(open_checkpoint(out), base, KEEP)


def test_what_pruning_saves_is_known_before(base: Checkpoint, out: Path) -> None:
    cost = estimate_cost(base, 4, load_gates().regimes["fixture"], None, 1.0)
    assert cost.pruned_bytes == open_checkpoint(out).nbytes


def test_its_norms_are_what_a_perturbed_copy_moves(out: Path, tmp_path: Path) -> None:
    make_perturbed(out, tmp_path / "ulp", seed=0)
    before, after = stored(out), stored(tmp_path / "ulp")
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        f"layers.{layer}.norm" for layer in range(5)
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' with architectures 'ToyForCausalLM'"),
        ({"model_type": ["toy"]}, "model_type a JSON array of 1 with architectures 'ToyForCausalLM'"),
        ({"architectures": ["A", "B"]}, "model_type 'toy' with architectures a JSON array of 2"),
        ({"architectures": ["GptOssForCausalLM"]}, "model_type 'toy' with architectures 'GptOssForCausalLM'"),
    ],
)
def test_what_is_no_known_family_is_told_which_there_are(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        family_of(CONFIG | change, where=Path("config.json"))
    known = "'gpt_oss' / GptOssForCausalLM, 'toy' / ToyForCausalLM"
    assert str(refused.value) == f"config.json: {said} is not gpt-oss or toy; only {known} checkpoints can be used"


def test_a_config_that_names_no_architecture_is_its_familys(toy: Family) -> None:
    assert family_of({"model_type": "toy"}, where=Path("config.json")) is toy


def test_knowing_families_takes_no_torch(tmp_path: Path) -> None:
    """Nor does pruning with what needs no model, to the end."""
    write_tiny_checkpoint(tmp_path / "base")
    script = (
        "import sys; from pathlib import Path\n"
        "from eaftgate.checkpoint.checkpoint import open_checkpoint\n"
        "from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint\n"
        "base, out = map(Path, sys.argv[1:])\n"
        "prune_checkpoint(open_checkpoint(base), '0' * 64, None, PruneRequest(keep_n=4, method='random'), out)\n"
        "assert 'eaftgate.families.gpt_oss' in sys.modules\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "base", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "manifest.json").exists()

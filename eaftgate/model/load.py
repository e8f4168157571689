"""Loading a checkpoint with transformers for scoring or profiling."""

import importlib.metadata
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_kernels_available, is_triton_available
from transformers.utils.quantization_config import Mxfp4Config

from eaftgate import __version__
from eaftgate.checkpoint.shards import INDEX_FILE
from eaftgate.errors import UserError
from eaftgate.families.family import Family
from eaftgate.families.model import MoeModel
from eaftgate.families.registry import family_of
from eaftgate.model.attention import SINK_ATTENTION
from eaftgate.model.device import DTYPE_NAMES, check_dtype, check_there
from eaftgate.model.foreign import check_known, make_ready
from eaftgate.strict_json import read_object
from eaftgate.visible import plain

GENERATION_FILE = "generation_config.json"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


@dataclass(frozen=True)
class ModelSettings:
    """How a model runs. `dequantize` turns MXFP4 experts into plain `dtype` tensors, which is exact."""

    device: str
    dtype: str
    dequantize: bool

    def describe(self) -> dict[str, Any]:
        """What decides the numbers a model puts out, for cache keys and reports."""
        on_gpu = torch.device(self.device).type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "dtype": self.dtype,
            "eaftgate": __version__,
            "experts": "dequantized" if self.dequantize else "mxfp4",
            "attention": SINK_ATTENTION,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **({} if self.dequantize else {name: _version(name) for name in ("triton", "kernels")}),
            # Once it was rounded with the weights: collections and profiles of then are none of now.
            **({"rotary": "float32"} if self.dequantize and self.dtype == "bfloat16" else {}),
        }

    @property
    def hardware(self) -> str:
        """What decides how fast it runs, as far as that has a name: a speed measured on another says nothing."""
        device, threads = self.describe()["device"], torch.get_num_threads()
        if device == "cpu":
            device += f" with {threads} thread{'s' if threads > 1 else ''}"
        return f"{device} in {self.dtype}"


def default_settings(*, device: str | None = None, dtype: str | None = None, dequantize: bool = False) -> ModelSettings:
    """CUDA with bfloat16 when there is a GPU, otherwise the CPU with float32.

    On a CPU the MXFP4 experts are always dequantised. On a GPU that takes `dequantize`, because it needs three times
    the memory and measures another path than the one that serves.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_there(device)
    on_gpu = torch.device(device).type == "cuda"
    dtype = dtype or ("bfloat16" if on_gpu else "float32")
    check_dtype(dtype)
    return ModelSettings(device, dtype, dequantize or not on_gpu)


def load_model(path: Path, settings: ModelSettings) -> MoeModel:
    """The model in evaluation mode on its device, with this package's attention and its family's experts.

    Raises UserError when transformers refuses it or would invent a weight of it, MXFP4 experts would have to be
    dequantised without being asked, or memory runs out; for weights in a foreign format also when transformers does not
    know it or the package that loads it is missing.
    """
    dtype = DTYPES[settings.dtype]
    config, family = _configuration(path)
    model_class = family.model_class()
    said = getattr(config, "quantization_config", None)
    foreign = family.foreign_storage({"quantization_config": said})
    quantized = said is not None and foreign is None
    if foreign is not None:
        with _quiet_transformers():
            check_known(path, foreign, said)
    if quantized and not settings.dequantize and not (is_triton_available("3.4.0") and is_kernels_available()):
        raise UserError(
            f"{path} has MXFP4 experts and no MXFP4 kernels are installed: install triton >= 3.4 and kernels, "
            "or ask for bfloat16 experts with --dequantize"
        )
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": SINK_ATTENTION,
        "device_map": settings.device,
        "generation_config": transformers.GenerationConfig(),  # nothing is generated, whatever the file says
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # those are told as well, which names them
    }
    if quantized:
        options["quantization_config"] = Mxfp4Config(dequantize=settings.dequantize)
    if settings.dequantize or not quantized:
        options["experts_implementation"] = model_class.experts_implementation
    try:
        with _quiet_transformers(), _with_metadata(path) as readable:
            module: Any
            module, told = getattr(transformers, family.architecture).from_pretrained(readable, **options)
            if settings.dequantize and foreign is None:
                _cast_parameters(module, dtype)
    except torch.OutOfMemoryError:
        raise UserError(f"{path} does not fit into the memory of {settings.device} as {settings.dtype}") from None
    except Exception as error:  # whatever a damaged file makes it raise
        raise _not_loaded(path, error, foreign=foreign) from None
    _check_all_loaded(path, family, told, as_mxfp4=quantized and not settings.dequantize)
    model = model_class(module.eval())
    if foreign is not None:
        try:
            with _quiet_transformers():
                make_ready(model, module, dtype, path)
        except UserError:
            raise
        except Exception as error:  # whatever the loader's layers do on a device that is not theirs
            raise _not_loaded(path, error, foreign=foreign) from None
    if quantized and not settings.dequantize and model.has_plain_experts:
        raise UserError(
            f"transformers would dequantise the MXFP4 experts of {path} on {settings.device}, which cannot run them: "
            "use another GPU, or ask for it with --dequantize"
        )
    return model


def generation_config(path: Path) -> transformers.GenerationConfig:
    """How the checkpoint says that it is to write, with transformers' defaults for what it does not say. Raises
    UserError when its file is none."""
    try:
        with _quiet_transformers():
            if (path / GENERATION_FILE).is_file():
                return transformers.GenerationConfig.from_pretrained(path)
            return transformers.GenerationConfig.from_model_config(transformers.AutoConfig.from_pretrained(path))
    except Exception as error:  # whatever a file of any content makes it raise
        raise _not_loaded(path, error) from None


def _cast_parameters(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """transformers before 5.23 dequantises to bfloat16 whatever dtype says; the cast is exact.

    Buffers stay as they are: rotary frequencies rounded to bfloat16 would be radians off after a thousand tokens.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def check_configuration(path: Path) -> None:
    """Raises UserError when transformers makes no model of config.json: what else is told when the weights are read."""
    module_without_weights(path, "float32")


def module_without_weights(path: Path, dtype: str) -> Any:
    """transformers' model as `load_model` has it with plain experts, in evaluation mode; every tensor is on the meta
    device. Raises UserError when transformers makes no model of config.json."""
    config, family = _configuration(path)
    ours = {
        "attn_implementation": SINK_ATTENTION,
        "experts_implementation": family.model_class().experts_implementation,
    }
    try:
        with _quiet_transformers(), torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], **ours).eval()
    except Exception as error:  # as below
        raise _not_loaded(path, error) from None


def _configuration(path: Path) -> tuple[Any, Family]:
    try:
        with _quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(path)
    except Exception as error:  # whatever a config.json of any content makes it raise
        raise _not_loaded(path, error) from None
    return config, family_of({"model_type": config.model_type}, where=path / "config.json")


def _check_all_loaded(path: Path, family: Family, told: Mapping[str, Any], *, as_mxfp4: bool) -> None:
    """Whatever was checked when the checkpoint was opened, the loader's own word on what it invented or left out.

    What becomes of MXFP4 experts that stay packed it tells by other names.
    """
    found = {
        "is missing": told["missing_keys"],
        "is none that the model has": told["unexpected_keys"],
        "has another shape than the model's": {name for name, *_ in told["mismatched_keys"]},
    }
    for problem, keys in found.items():
        names = sorted(name for name in keys if not (as_mxfp4 and family.holds_experts(name)))
        if names:
            more = f" (and {len(names) - 1} more)" if names[1:] else ""
            raise UserError(
                f"{path}: tensor {names[0]!r} {problem}{more}, says transformers {transformers.__version__}; take a "
                "complete copy of the checkpoint"
            )


@contextmanager
def _with_metadata(path: Path) -> Iterator[Path]:
    """The checkpoint for transformers, which cannot do without what an index need not say: in links, where it does
    not."""
    if not (path / INDEX_FILE).is_file() or "metadata" in (index := read_object(path / INDEX_FILE, what="the index")):
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        links = Path(directory)
        for file in path.iterdir():
            if file.name != INDEX_FILE:
                (links / file.name).symlink_to(file.resolve())
        (links / INDEX_FILE).write_text(json.dumps({**index, "metadata": {}}), encoding="utf-8")
        yield links


def _not_loaded(path: Path, error: Exception, *, foreign: str | None = None) -> UserError:
    """Raises KeyboardInterrupt where that is what came between: within torch's modes it comes out as another error."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        before = before.__cause__ or before.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if "above report" in reason:  # which is not shown
        reason = f"it cannot convert the {'experts' if foreign is None else 'weights'} as they are stored"
    what = str(path)
    if foreign is not None:  # transformers says which package is missing, or that it takes a GPU, in several sentences
        what, reason = f"{path} (stored as {plain(foreign)})", reason.rstrip(".").replace(". ", "; ")
    return UserError(f"{what} cannot be loaded by transformers {transformers.__version__}: {reason}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence progress bars and advice that is not addressed to our user; errors still come through."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

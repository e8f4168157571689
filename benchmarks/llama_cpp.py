"""llama.cpp's perplexity and KL divergence beside ours, on the same tokens: a table for the documents.

    PYTHONPATH=. python benchmarks/llama_cpp.py BASE CANDIDATE... --packs DIR --llama-cpp DIR --work DIR
        [--seq-len 512] [--num-blocks 64] [--pre gpt-4o] [--threads 1] [--data docs/data/FILE.json]

--llama-cpp is a clone of github.com/ggml-org/llama.cpp in which `cmake -B build && cmake --build build --target
llama-perplexity` has run. Base and candidates are converted to GGUF (`llama_cpp_convert.py`); UNION's first blocks are
written as one text, which llama-perplexity tokenises, cuts into contexts of --seq-len and scores, of each context the
second half. The tokens that it says it has scored are held against the blocks', and the script ends where they differ.

Three rows a candidate: llama.cpp's own; ours over the whole vocabulary, from transformers in float32; ours as a gate
has it, bounded from below by both models' top 20 (`top20_kld`). Both models are in memory at once.
"""

import argparse
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.llama_cpp_convert import renamed
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.collection import TOP_K, TokenStats, concatenate
from eaftgate.collect.token_stats import LOGIT_BYTES, linear_logits, token_stats
from eaftgate.families.model import MoeModel
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.estimates import PERCENTILES
from eaftgate.parity.paired import top_divergences

ATTEMPTS = 5
"""On a busy machine llama-perplexity may end before its log, in which the figures are, is written."""
Figures = dict[str, float]
NUMBER = r"\s*:\s*(-?[\d.]+)"
SAID = {
    "ppl_base": r"Mean PPL\(base\)", "ppl": r"Mean PPL\(Q\)", "ln_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)",
    "kld": "Mean    KLD", "maximum": "Maximum KLD", "p99_9": "99.9%   KLD", "p99": "99.0%   KLD",
    "p95": "95.0%   KLD", "p90": "90.0%   KLD", "median": "Median  KLD", "same_top": "Same top p",
}  # fmt: skip
"""Our names of what llama-perplexity prints."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--num-blocks", type=int, default=64)
    parser.add_argument("--pre", default="-", help="the pre-tokenizer, where llama.cpp does not know it by its hash")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    ids_BS = token_ids(given)
    saved = given.work / "base.kld"
    perplexity(given, given.base, "--kl-divergence-base", str(saved))
    check_tokens(saved, ids_BS)
    settings, rows = default_settings(dequantize=True), []
    base = load_model(given.base, settings)
    for path in given.candidates:
        found = {"llama.cpp": theirs(perplexity(given, path, "--kl-divergence-base", str(saved), "--kl-divergence"))}
        found |= ours(base, load_model(path, settings), ids_BS)
        for by, figures in found.items():
            rows.append({"candidate": path.name, "by": by, **figures})
            print(json.dumps(rows[-1]), flush=True)
    if given.data is not None:
        told = json.loads(given.data.read_text(encoding="utf-8"))
        given.data.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def token_ids(given: argparse.Namespace) -> NDArray[np.int32]:
    """Of UNION's first blocks, of which the text for llama.cpp is written, too."""
    tokenizer = load_tokenizer(given.base)
    blocks = build_blocks(
        named_packs(given.packs, seed=None)[UNION],
        tokenizer.backend,
        eos_id=tokenizer.eos_id,
        seq_len=given.seq_len,
        num_blocks=given.num_blocks,
        vocab_size=open_checkpoint(given.base).vocab_size,
    )
    text = tokenizer.backend.decode(blocks.token_ids_BS.ravel().tolist(), skip_special_tokens=False)
    (given.work / "text.txt").write_text(renamed(text), encoding="utf-8")
    return blocks.token_ids_BS


def perplexity(given: argparse.Namespace, checkpoint: Path, *options: str) -> str:
    """What llama-perplexity prints of a checkpoint, which is converted first."""
    converted = given.work / f"{checkpoint.name}.gguf"
    if not converted.exists():
        script = Path(__file__).with_name("llama_cpp_convert.py")
        command = [sys.executable, str(script), str(given.llama_cpp), given.pre, str(checkpoint), str(converted)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    command = [str(given.llama_cpp / "build" / "bin" / "llama-perplexity"), "-m", str(converted), *options]
    command += ["-f", str(given.work / "text.txt"), "--no-escape", "-c", str(given.seq_len), "-b", str(given.seq_len)]
    command += ["-t", str(given.threads)]
    last = SAID["same_top"] if "--kl-divergence" in options else "Final estimate"
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode == 0 and f"{last}:" in done.stdout:
            return done.stdout
    sys.exit(f"{command[0]} ended with {done.returncode}: {done.stdout[-2000:]}")


def check_tokens(saved: Path, ids_BS: NDArray[np.int32]) -> None:
    """Ends the script where llama.cpp has scored other tokens: "_logits_", n_ctx, n_vocab, n_chunk, the tokens."""
    with saved.open("rb") as stream:
        if stream.read(8) != b"_logits_":
            sys.exit(f"{saved} is not what llama-perplexity saves")
        seq_len, _, chunks = struct.unpack("<Iii", stream.read(12))
        scored_BS = np.frombuffer(stream.read(4 * seq_len * chunks), np.int32).reshape(chunks, seq_len)
    if scored_BS.shape != ids_BS.shape or not np.array_equal(scored_BS, ids_BS):
        same = sum(np.array_equal(*pair) for pair in zip(scored_BS, ids_BS, strict=False))
        sys.exit(f"llama.cpp tokenises otherwise: {same} of {len(ids_BS)} blocks are as ours, it has {scored_BS.shape}")


def theirs(printed: str) -> Figures:
    """With the standard errors of two of them. Ends the script where one is not there: below 100 tokens, for one."""
    figures: Figures = {}
    for name, line in SAID.items():
        found = re.search(rf"{line}{NUMBER}%?(?: ±\s*([\d.]+))?", printed)
        if found is None:
            sys.exit(f"llama-perplexity does not say {line!r}: {printed[-2000:]}")
        figures[name] = float(found[1])
        if name in ("ln_ratio", "kld"):
            figures[f"{name}_error"] = float(found[2])
    return {**figures, "same_top": figures["same_top"] / 100}


@torch.inference_mode()
def ours(base: MoeModel, candidate: MoeModel, ids_BS: NDArray[np.int32]) -> dict[str, Figures]:
    """Over the tokens that llama.cpp scores, of each context those after its middle."""
    stats: tuple[list[TokenStats], list[TokenStats]] = ([], [])
    whole, token_T = [], ids_BS[:, ids_BS.shape[1] // 2 + 1 :].ravel()
    for ids_S in torch.from_numpy(ids_BS.astype(np.int64)):
        first = len(ids_S) // 2
        hidden = [model.hidden_states(ids_S[None].to(model.device))[0, first:-1] for model in (base, candidate)]
        for found, model, hidden_TD in zip(stats, (base, candidate), hidden, strict=True):
            columns = token_stats(hidden_TD, ids_S[first + 1 :].to(model.device), model.head_VD, top_k=TOP_K)
            found.append(TokenStats(*(column.cpu().numpy() for column in columns)))
        whole += list(divergence(base, candidate, *hidden))
    of_base, of_candidate = (concatenate(found) for found in stats)
    change_T = of_base.logprob_T.astype(np.float64) - of_candidate.logprob_T
    shared = {
        "ppl_base": math.exp(-float(of_base.logprob_T.mean(dtype=np.float64))),
        "ppl": math.exp(-float(of_candidate.logprob_T.mean(dtype=np.float64))),
        "ln_ratio": float(change_T.mean()),
        "ln_ratio_error": standard_error(change_T),
        "same_top": float((of_base.top_ids_TK[:, 0] == of_candidate.top_ids_TK[:, 0]).mean()),
    }
    _, bounded_T, _ = top_divergences(of_base, of_candidate, token_T)
    return {
        "ours, whole vocabulary": {**shared, **distribution(np.concatenate(whole))},
        "ours, top 20": {**shared, **distribution(bounded_T.astype(np.float64))},
    }


def divergence(
    base: MoeModel, candidate: MoeModel, hidden_TD: torch.Tensor, other_TD: torch.Tensor
) -> Iterator[NDArray[np.float64]]:
    """KL(base || candidate) over all tokens of the vocabulary, nats a token, chunk after chunk."""
    chunk = max(1, LOGIT_BYTES // (8 * len(base.head_VD)))
    for start in range(0, len(hidden_TD), chunk):
        logp, logq = (
            linear_logits(model.head_VD)(of).double().log_softmax(-1)
            for model, of in ((base, hidden_TD[start : start + chunk]), (candidate, other_TD[start : start + chunk]))
        )
        yield (logp.exp() * (logp - logq)).sum(-1).cpu().numpy()


def distribution(kld_T: NDArray[np.float64]) -> Figures:
    at = {name: float(np.percentile(kld_T, percent)) for name, percent in PERCENTILES.items()}
    return {"kld": float(kld_T.mean()), "kld_error": standard_error(kld_T), **at}


def standard_error(value_T: NDArray[np.float64]) -> float:
    """As llama.cpp's: as if no token had to do with another."""
    return float(value_T.std()) / math.sqrt(len(value_T) - 1)


if __name__ == "__main__":
    main()

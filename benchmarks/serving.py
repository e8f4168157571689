"""The perplexity of a checkpoint as another engine has it, in the windows of llama.cpp's `llama-perplexity -c 512`.

    python benchmarks/serving.py text PACK.parquet --rows 60 --out text.txt     # for -f of llama-perplexity, too
    python benchmarks/serving.py transformers DIR text.txt                 # float32, experts dequantised
    python benchmarks/serving.py vllm DIR text.txt                         # bfloat16; where vLLM is

A text is cut into windows of 512 tokens; the second half of each is scored, after the first. Greedy text is printed
beside it.
"""

import argparse
import math
from pathlib import Path

WINDOW, SCORED_FROM = 512, 257
PROMPT = "<|start|>user<|message|>Hello, what is"


def windows(directory: str, text: Path, limit: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(directory)(text.read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    return [ids[at : at + WINDOW] for at in range(0, min(limit, len(ids) // WINDOW) * WINDOW, WINDOW)]


def by_transformers(directory: str, blocks: list[list[int]]) -> tuple[list[float], str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import Mxfp4Config

    quantized = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, quantization_config=quantized)
    nll: list[float] = []
    with torch.inference_mode():
        for block in blocks:
            ids = torch.tensor([block])
            logprob = model(ids).logits[0, SCORED_FROM - 1 : -1].log_softmax(-1)
            nll += (-logprob.gather(1, ids[0, SCORED_FROM:, None])[:, 0]).tolist()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    asked = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    written = model.generate(**asked, do_sample=False, max_new_tokens=20)[0, asked.input_ids.shape[1] :]
    return nll, str(tokenizer.decode(written))


def by_vllm(directory: str, blocks: list[list[int]]) -> tuple[list[float], str]:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(model=directory, enforce_eager=True, max_model_len=2 * WINDOW, dtype="bfloat16")
    scored = engine.generate(
        [TokensPrompt(prompt_token_ids=block) for block in blocks],
        SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
    )
    nll = [
        -answer.prompt_logprobs[at][block[at]].logprob
        for answer, block in zip(scored, blocks, strict=True)
        for at in range(SCORED_FROM, WINDOW)
    ]
    greedy = SamplingParams(temperature=0, max_tokens=20, skip_special_tokens=False)
    return nll, engine.generate([PROMPT], greedy)[0].outputs[0].text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["text", "transformers", "vllm"])
    parser.add_argument("path")
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.engine == "text":
        import pyarrow.parquet as pq

        rows = pq.read_table(asked.path, columns=["text"])["text"].to_pylist()[: asked.rows]
        asked.out.write_text("".join(rows), encoding="utf-8")
        return
    blocks = windows(asked.path, asked.text, asked.chunks)
    nll, written = (by_vllm if asked.engine == "vllm" else by_transformers)(asked.path, blocks)
    print(f"{asked.engine} {asked.path}: PPL {math.exp(sum(nll) / len(nll)):.4f} of {len(blocks)} windows; {written!r}")


if __name__ == "__main__":
    main()

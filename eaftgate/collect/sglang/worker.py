"""The engine's process: SGLang kills its whole process tree when it fails, so it gets one of its own.

    python -m eaftgate.collect.sglang.worker

Reads JSON lines on standard input: first {"model": DIR, "arguments": {...}}, then what is to be scored, lists of
request ids, or written, {"number": N, "tokens": request, "sampling": {...}}. Answers with JSON lines on standard
output: first {"ready": {...}}, then {"done": number of requests} for every list, in order, {"number": N, "answer":
{...}} for what was written, as it comes, or {"error": reason}.
Whatever SGLang prints goes to standard error.
"""

import asyncio
import json
import os
import sys
import traceback
from typing import Any

from eaftgate.collect.sglang.spool import read_tokens

MODELS = "eaftgate.collect.sglang.models"
KEPT = ("finish_reason",)
"""Of what SGLang says about what it wrote."""
IN_FLIGHT = 2
"""Lists of requests that the engine holds at a time, so that it need not wait for the next."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    given = json.loads(sys.stdin.readline())
    os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = MODELS
    os.environ["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"  # for context_length, see collector.model_arguments
    import sglang

    engine = sglang.Engine(model_path=given["model"], **given["arguments"])
    used = {key: getattr(engine.server_args, key) for key in ("moe_runner_backend", "attention_backend")}
    answers.write(json.dumps({"ready": used}) + "\n")
    try:
        engine.loop.run_until_complete(_serve(engine, answers))
    finally:
        engine.shutdown()


async def _serve(engine: Any, answers: Any) -> None:
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(IN_FLIGHT)
    before: asyncio.Task[None] | None = None

    async def score(rids: list[str], previous: "asyncio.Task[None] | None") -> None:
        try:
            await engine.async_generate(
                input_ids=[read_tokens(rid).tolist() for rid in rids],
                sampling_params={"temperature": 0, "max_new_tokens": 0},
                rid=rids,
            )
            answer: dict[str, Any] = {"done": len(rids)}
        except Exception as error:  # what SGLang refuses without ending, blocks that are too long for one
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            free.release()
        if previous is not None:
            await previous  # answers keep the order of the questions
        answers.write(json.dumps(answer) + "\n")

    async def write(question: dict[str, Any]) -> None:
        try:
            [found] = await engine.async_generate(
                input_ids=[read_tokens(question["tokens"]).tolist()], sampling_params=question["sampling"]
            )
            kept = {"output_ids": found["output_ids"], "meta_info": {key: found["meta_info"][key] for key in KEPT}}
            answer: dict[str, Any] = {"number": question["number"], "answer": kept}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")

    writing: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = json.loads(line)
        if isinstance(question, dict):
            task = asyncio.create_task(write(question))
            writing.add(task)
            task.add_done_callback(writing.discard)
            continue
        await free.acquire()
        before = asyncio.create_task(score(question, before))
    if before is not None:
        await before
    await asyncio.gather(*writing)


if __name__ == "__main__":
    main()

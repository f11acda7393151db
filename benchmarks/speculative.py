"""Real speculative decoding with a run's student as the draft of its teacher, against the formulas.

    python benchmarks/speculative.py RUN [--prompts 8] [--tokens 48] [--lookahead 1 2 4]

Of a run on a language data set. Prompts are beginnings of validation windows; text is drawn at
temperature 1. Prints the record's acceptance_rate (the mean of sum min(p, q) over the data's own
text) beside the share of tested tokens that the teacher took (over text that it writes itself), the
tokens of a round beside (1 - a^(k + 1)) / (1 - a), and the speed-up over the teacher's decoding
alone beside (1 - a^(k + 1)) / ((1 - a)(k c + 1)), where a is the measured acceptance and c the
measured time of a step of the student over one of the teacher's. Both decode with their caches, at
batch 1; each prompt is one alternating pair; times are of the processor. The prompts' reading is in
both times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import asked
import torch
from torch import nn

from kd_research.generation.decode import generate
from kd_research.generation.settings import GenerationConfig
from kd_research.generation.speculative import (
    Speculated,
    expected_speedup,
    expected_tokens,
    speculate,
)
from kd_research.records.record import read_record
from kd_research.trial.language_run import open_language_run


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def step_ratio(student: nn.Module, teacher: nn.Module, tokens: int, prompt: torch.Tensor) -> float:
    """The median of c over alternating pairs: decoding by the student over that by the teacher."""
    how = GenerationConfig(max_new_tokens=tokens)
    ratios = []
    for seed in range(7):
        seconds = [
            timed(lambda model=model, seed=seed: generate(model, prompt, how, seed=seed))[0]
            for model in (student, teacher)
        ]
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])


def share(found: list[Speculated], part: str, whole: str) -> float:
    return sum(getattr(f, part) for f in found) / sum(getattr(f, whole) for f in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=asked.run)
    parser.add_argument("--prompts", type=asked.count, default=8)
    parser.add_argument("--tokens", type=asked.count, default=48)
    parser.add_argument("--lookahead", type=asked.count, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    run = open_language_run(given.run.resolve(), torch.device("cpu"))
    if run.teacher is None:
        parser.error(f"{given.run}: {run.no_teacher}")
    if run.teacher_tokens is not run.tokens:
        parser.error(
            f"{given.run}: the teacher has a tokenizer of its own, so the student is no draft"
        )
    student, teacher = run.student, run.teacher
    windows = run.data.val.take(torch.arange(given.prompts)).inputs
    assert isinstance(windows, dict)
    length = windows["input_ids"].shape[1] - given.tokens
    if length < 1:
        parser.error(f"--tokens must be below the run's context of {windows['input_ids'].shape[1]}")
    prompts = windows["input_ids"][:, :length]
    how = GenerationConfig(max_new_tokens=given.tokens)
    cost = step_ratio(student, teacher, given.tokens, prompts[:1])
    rate = read_record(given.run).metrics["acceptance_rate"]
    sizes = [sum(p.numel() for p in model.parameters()) for model in (student, teacher)]
    print(f"draft {sizes[0]:,} parameters, target {sizes[1]:,}; c {cost:.3f}")
    print(f"acceptance_rate of the record {rate:.3f}; load {os.getloadavg()[0]:.1f}")
    print(f"{given.prompts} prompts of {length} tokens, {given.tokens} new ones each\n")
    print("| k | tokens taken | tokens a round | formula | speed-up (pairs) | formula |")
    print("|---|---|---|---|---|---|")
    for lookahead in given.lookahead:
        found, ratios = [], []
        for row, prompt in enumerate(prompts):
            alone, _ = timed(lambda p=prompt, r=row: generate(teacher, p[None], how, seed=r))
            seconds, text = timed(
                lambda p=prompt, r=row, k=lookahead: speculate(
                    teacher, student, p, how, lookahead=k, seed=0, row=r
                )
            )
            ratios.append(alone / seconds)
            found.append(text)
        taken = share(found, "accepted", "tested")
        tokens = sum(len(f.tokens) for f in found) / sum(f.rounds for f in found)
        print(
            f"| {lookahead} | {taken:.3f} | {tokens:.2f} | {expected_tokens(taken, lookahead):.2f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {expected_speedup(taken, lookahead, cost):.2f} |"
        )


if __name__ == "__main__":
    main()

"""What a student writes, and its teacher beside it: `python -m kd_research.generate RUN`.

Both are read from the run's folder. What is drawn depends on the seed and the prompt's place alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from kd_research.configuration.config import ConfigError, refuse_foreign
from kd_research.configuration.ranks import be_one_process
from kd_research.configuration.trust import FLAG, give
from kd_research.generation.decode import context_of, generate, pad_left
from kd_research.generation.settings import GenerationConfig
from kd_research.records.printable import printable
from kd_research.records.printing import print_safely
from kd_research.trial.language_run import Tokens, open_language_run
from kd_research.trial.run import quiet

BATCH = 16  # prompts at once
DEFAULT_TOKENS = 128


def written(
    model: nn.Module, tokens: Tokens, prompts: list[list[int]], how: GenerationConfig, seed: int
) -> tuple[list[str], int, float]:
    """What `model` writes after each prompt, in how many tokens and seconds."""
    texts: list[str] = []
    num_tokens, start = 0, time.perf_counter()
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        padded, mask = pad_left(part)
        rows = torch.arange(first, first + len(part))
        found = generate(model, padded, how, seed=seed, rows=rows, attention_mask=mask)
        num_tokens += int(found.mask.sum())
        texts += [
            tokens.tokenizer.decode(row[kept].tolist())
            for row, kept in zip(found.tokens, found.mask, strict=True)
        ]
    return texts, num_tokens, time.perf_counter() - start


def room(longest: Mapping[nn.Module, int]) -> int:
    """How many tokens fit after the longest prompt of each model, at most 128 and at least 1."""
    contexts = {model: context_of(model) for model in longest}
    rooms = [c - longest[model] + 1 for model, c in contexts.items() if c is not None]
    return max(1, min([DEFAULT_TOKENS, *rooms]))  # `generate` tells a prompt that is too long


def show(directory: Path, given: argparse.Namespace) -> None:
    """Print what the models of one run write after the prompts.

    Raises:
        ConfigError: there is no run, or it cannot be built.
        ValueError: it has no language model, no weights, or a prompt or setting does not fit.
    """
    GenerationConfig(given.max_new_tokens or 1, given.temperature, given.top_k, given.top_p)
    named = _prompts(given)
    names, texts = [name for name, _ in named], [text for _, text in named]
    run = open_language_run(directory)
    writers = {"student": (run.student, run.tokens)}
    if run.teacher is not None:
        writers["teacher"] = (run.teacher, run.teacher_tokens)
    read = {name: tokens.encode(texts, names) for name, (_, tokens) in writers.items()}
    new = given.max_new_tokens
    if new is None:
        new = room({model: max(map(len, read[name])) for name, (model, _) in writers.items()})
    drawn = (new, given.temperature, given.top_k, given.top_p)
    columns = {
        name: written(model, tokens, read[name], GenerationConfig(*drawn, tokens.stop), given.seed)
        for name, (model, tokens) in writers.items()
    }
    for place, text in enumerate(texts):
        print(f"{'prompt':9}{_shown(text)}")
        for name, (column, _, _) in columns.items():
            print(f"{name:9}{_shown(column[place])}")
        print()
    for name, (_, num_tokens, seconds) in columns.items():
        speed = num_tokens / seconds
        print(f"{name}: {num_tokens} tokens in {seconds:.2f} s, {speed:,.0f} tokens a second")
    if run.no_teacher is not None:
        print(f"the student's text alone: {printable(run.no_teacher)}")
    elif run.teacher_tokens is not run.tokens:
        print("the teacher has a tokenizer of its own: its tokens are not the student's")


def _shown(text: str) -> str:
    """Under each other, behind the name."""
    return printable(text).replace("\n", "\n         ")


def _prompts(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Each prompt, and what an error calls it."""
    found = [(f"prompt {place}", text) for place, text in enumerate(given.prompt or [], start=1)]
    if given.prompts is not None:
        try:
            lines = given.prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompts {given.prompts} cannot be read: {error}") from None
        found += [(f"line {n} of {given.prompts}", line) for n, line in enumerate(lines, start=1)]
    if not found:
        raise ValueError("there is no prompt; type --prompt TEXT, or --prompts FILE")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write after the prompts of the command line; 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m kd_research.generate",
        description="What a run's student writes after a prompt, and its teacher beside it.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run, or of one trial")
    parser.add_argument("--prompt", action="append", help="a beginning; may be given again")
    parser.add_argument("--prompts", type=Path, help="a file with a beginning in each line")
    parser.add_argument(
        "--max-new-tokens", type=int, help="the most tokens of a text (128, or what has room)"
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="0 takes the likeliest token (default 1)"
    )
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest alone")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="from the likeliest of this mass (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")
    parser.add_argument(FLAG, action="store_true", help="run whatever code the folder names")
    given = parser.parse_args(arguments)
    if given.trust:
        give()
    quiet()
    directory = given.run
    seeds = sorted(directory.glob("seed-*"))
    if seeds and not (directory / "config.yaml").exists():
        directory = seeds[0]  # of a trial with several seeds
    try:
        be_one_process()
        refuse_foreign(directory)
        show(directory.resolve(), given)
    except (ConfigError, ValueError) as error:
        print(printable(f"{directory}: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    print_safely()
    sys.exit(main())

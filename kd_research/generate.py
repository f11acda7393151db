"""What a student writes, and its teacher beside it: `python -m kd_research.generate RUN`.

Both are read from the run's folder. What is drawn depends on the seed and the prompt's place alone.
"""

from __future__ import annotations

import argparse
import sys
import time
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
from kd_research.trial.language_run import LanguageRun, open_language_run
from kd_research.trial.run import quiet

BATCH = 16  # prompts at once
DEFAULT_TOKENS = 128


def written(
    model: nn.Module, run: LanguageRun, prompts: list[list[int]], how: GenerationConfig, seed: int
) -> tuple[list[str], int, float]:
    """What `model` writes after each prompt, in how many tokens and seconds."""
    texts: list[str] = []
    num_tokens, start = 0, time.perf_counter()
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        tokens, mask = pad_left(part)
        rows = torch.arange(first, first + len(part))
        found = generate(model, tokens, how, seed=seed, rows=rows, attention_mask=mask)
        num_tokens += int(found.mask.sum())
        texts += [
            run.tokenizer.decode(row[kept].tolist())
            for row, kept in zip(found.tokens, found.mask, strict=True)
        ]
    return texts, num_tokens, time.perf_counter() - start


def settings(run: LanguageRun, given: argparse.Namespace, longest: int) -> GenerationConfig:
    """How text is drawn: as many tokens as fit, at most 128, where no number is given."""
    new = given.max_new_tokens
    if new is None:
        models = [run.student] if run.teacher is None else [run.student, run.teacher]
        rooms = [c - longest + 1 for c in map(context_of, models) if c is not None]
        new = max(1, min([DEFAULT_TOKENS, *rooms]))  # `generate` tells a prompt that is too long
    return GenerationConfig(new, given.temperature, given.top_k, given.top_p, run.stop)


def show(directory: Path, given: argparse.Namespace) -> None:
    """Print what the models of one run write after the prompts.

    Raises:
        ConfigError: there is no run, or it cannot be built.
        ValueError: it has no language model, no weights, or a prompt or setting does not fit.
    """
    GenerationConfig(given.max_new_tokens or 1, given.temperature, given.top_k, given.top_p)
    texts = _prompts(given)
    run = open_language_run(directory)
    prompts = run.encode(texts)
    how = settings(run, given, max(map(len, prompts)))
    writers = {"student": run.student}
    if run.teacher is not None:
        writers["teacher"] = run.teacher
    columns = {
        name: written(model, run, prompts, how, given.seed) for name, model in writers.items()
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


def _shown(text: str) -> str:
    """Under each other, behind the name."""
    return printable(text).replace("\n", "\n         ")


def _prompts(given: argparse.Namespace) -> list[str]:
    texts = list(given.prompt or [])
    if given.prompts is not None:
        try:
            texts += given.prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompts {given.prompts} cannot be read: {error}") from None
    if not texts:
        raise ValueError("there is no prompt; type --prompt TEXT, or --prompts FILE")
    return texts


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

"""How good the texts are that a language model writes after the prompts of a data set.

Of prompts with completions: the first ones of a split, each written once by student and teacher,
against the completion that the data have. Intervals are 95 % bootstraps over prompts.

Shapes: N prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.data.prompts import Pair, pairs_of
from kd_research.data.sources import Split
from kd_research.evaluation.costs import Costs
from kd_research.evaluation.generation import Known
from kd_research.evaluation.quality import NUM_RESAMPLES, Evaluation, intervals
from kd_research.generation.decode import (
    evaluating,
    generate,
    pad_left,
    padded_inputs,
    takes_padding,
)
from kd_research.generation.settings import GenerationConfig

BATCH = 16  # prompts at once
OFF = {"num_prompts": 0}
SCORES = ("rouge_l", "exact_match", "gsm8k_accuracy")
# As GSM8K's own grader looks for it (Cobbe et al. 2021, arXiv:2110.14168), with a currency's sign.
FINAL_ANSWER = re.compile(
    r"####\s*([-+−]?)\s*[$€£]?\s*([-+−]?)([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
)


class Texts(NamedTuple):
    """What one model wrote.

    Attributes:
        ids: the tokens of each text, its end among them.
        texts: the same, decoded.
    """

    ids: list[list[int]]
    texts: list[str]


def rouge_l(text: str, reference: str) -> float:
    """The F-measure of the longest common subsequence of words, after Porter's stemmer.

    By Google's rouge-score, as MiniLLM's evaluation has it (Lin 2004, section 3).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return float(scorer.score(target=reference, prediction=text)["rougeL"].fmeasure)


def exact_match(text: str, reference: str) -> bool:
    """Whether both are the same, but for white space before and after."""
    return text.strip() == reference.strip()


def gsm8k_answer(text: str) -> Decimal | None:
    """The number after the first "####", as GSM8K's solutions end; None where there is none."""
    found = FINAL_ANSWER.search(text)
    if found is None:
        return None
    sign = "-" if any(each in ("-", "−") for each in found.group(1, 2)) else ""
    return Decimal(sign + found[3].replace(",", ""))


def scored(texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor | None]:
    """The scores of each text, (N,) float64; gsm8k_accuracy None where no reference has an answer.

    A reference without an answer does not count in it (NaN).
    """
    both = list(zip(texts, references, strict=True))
    answers = [gsm8k_answer(reference) for reference in references]
    right = [
        float("nan") if wanted is None else float(gsm8k_answer(text) == wanted)
        for text, wanted in zip(texts, answers, strict=True)
    ]
    return {
        "rouge_l": torch.tensor([rouge_l(*pair) for pair in both], dtype=torch.float64),
        "exact_match": torch.tensor([float(exact_match(*pair)) for pair in both]).double(),
        "gsm8k_accuracy": torch.tensor(right).double() if any(answers) else None,
    }


def chosen(split: Split, number: int | None, longest: int) -> tuple[list[Pair], int]:
    """The first `number` pairs whose prompt has at most `longest` tokens, and how many were longer.

    Args:
        split: of windows.
        number: None: all.
        longest: prompts above it leave no room for a text.
    """
    found: list[Pair] = []
    left_out = 0
    for pair in pairs_of(split):
        if len(found) == number:
            break
        if len(pair.prompt) > longest:
            left_out += 1
        else:
            found.append(pair)
    return found, left_out


def write(
    model: nn.Module, data: DataModule, pairs: Sequence[Pair], how: GenerationConfig, seed: int
) -> Texts:
    """What a model writes after the prompts."""
    ids: list[list[int]] = []
    size = BATCH if takes_padding(model) else 1
    for start in range(0, len(pairs), size):
        tokens, mask = pad_left([pair.prompt for pair in pairs[start : start + size]])
        rows = torch.arange(start, start + len(tokens))
        found = generate(model, tokens, how, seed=seed, rows=rows, attention_mask=mask)
        ids += [row[own].tolist() for row, own in zip(found.tokens, found.mask, strict=True)]
    assert data.tokenizer is not None
    return Texts(ids, [data.tokenizer.decode(row) for row in ids])


@torch.no_grad()
def surprise(model: nn.Module, pairs: Sequence[Pair], written: Texts) -> tuple[Tensor, Tensor]:
    """Of each text its -log p under a model, in nats, and its tokens, (N,) float64 each."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    nats = []
    size = BATCH if takes_padding(model) else 1
    with evaluating(model):
        for start in range(0, len(pairs), size):
            part = range(start, min(start + size, len(pairs)))
            tokens, mask = pad_left([pairs[at].prompt + written.ids[at] for at in part])
            tokens, mask = tokens.to(device), mask.to(device)
            given = padded_inputs(model, tokens[:, :-1], None if mask.all() else mask[:, :-1])
            found = model(**given)
            logits = (found if isinstance(found, Tensor) else found["logits"]).float()
            each = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
            for row, at in zip(each.double().cpu(), part, strict=True):
                nats.append(row[-len(written.ids[at]) :].sum())
    return torch.stack(nats), torch.tensor([len(row) for row in written.ids]).double()


def refuse_without_prompts(data: DataModule, settings: Mapping[str, Any]) -> None:
    """Let only data through that have prompts, where texts are to be evaluated.

    Raises:
        ValueError: they have none.
    """
    if settings["num_prompts"] == 0:
        return
    if data.tokenizer is None or data.val.labels.ndim != 2 or not any(pairs_of(data.val)):
        raise ValueError(
            f"the data set {data.name} has no prompts with completions; type dataset=instructions, "
            "or text_evaluation.num_prompts=0"
        )


def evaluate_texts(
    evaluation: Evaluation,
    student: nn.Module,
    teacher: nn.Module | None,
    data: DataModule,
    settings: Mapping[str, Any],
    stop: int | None,
    seed: int,
    read_test: bool = True,
    known: Known = lambda _, find: find(),
) -> None:
    """Add to an evaluation what the texts of student and teacher are worth.

    The metrics are val_rouge_l, val_exact_match and, where the completions end as GSM8K's do,
    val_gsm8k_accuracy; val_text_perplexity, of the student's texts under the teacher; the teacher's
    own under teacher_val_...; and their test twins. None is "not measured".

    Args:
        evaluation: gets metrics, and in its details the intervals over prompts and how many
            prompts there were.
        student: fitted.
        teacher: or None.
        data: whose splits; without prompts nothing is measured.
        settings: num_prompts (None is all, 0 measures nothing), max_new_tokens (None is half of
            the context), temperature, top_k and top_p.
        stop: the token that ends a text.
        seed: of the drawing.
        read_test: whether the test split is read.
        known: gives the teacher's own, which runs share, found before or by its second argument;
            the first says what they are of.
    """
    for name in ("val", "test") if read_test else ("val",):
        split = data.val if name == "val" else data.test
        names = [*(f"{name}_{each}" for each in SCORES), f"{name}_text_perplexity"]
        evaluation.metrics.update(dict.fromkeys(names))
        if settings["num_prompts"] == 0 or data.tokenizer is None or split.labels.ndim != 2:
            continue
        context = split.labels.shape[1]
        new = settings["max_new_tokens"] or max(1, context // 2)
        drawing = {key: settings[key] for key in ("temperature", "top_k", "top_p")}
        how = GenerationConfig(max_new_tokens=new, stop=stop, **drawing)
        pairs, left_out = chosen(split, settings["num_prompts"], context - new + 1)
        if not pairs:
            continue
        cut = sum(stop is not None and pair.completion[-1] != stop for pair in pairs)
        counts = {"num_prompts": len(pairs), "left_out": left_out, "cut": cut}
        counts["max_new_tokens"] = new
        details = evaluation.details[name]
        details["texts"] = counts
        written = write(student, data, pairs, how, seed)
        values = scored(written.texts, _references(data, pairs))
        _add(evaluation, name, values, f"{name}_")
        if teacher is not None:
            asked = partial(_worth, teacher, data, pairs, how, seed)
            own = known(f"texts {[name, len(pairs), how, seed]}", asked)
            found = {f"teacher_{name}_{key}": value for key, value in own.items()}
            evaluation.metrics.update(found)
            nats, tokens = surprise(teacher, pairs, written)
            evaluation.metrics[f"{name}_text_perplexity"] = float((nats.sum() / tokens.sum()).exp())
            details["intervals"]["text_perplexity"] = _perplexities(nats, tokens)


def _references(data: DataModule, pairs: Sequence[Pair]) -> list[str]:
    assert data.tokenizer is not None
    return [data.tokenizer.decode(pair.completion) for pair in pairs]


def _worth(
    model: nn.Module, data: DataModule, pairs: Sequence[Pair], how: GenerationConfig, seed: int
) -> Costs:
    """The mean scores of what a model writes after the prompts."""
    return _means(scored(write(model, data, pairs, how, seed).texts, _references(data, pairs)))


def _add(
    evaluation: Evaluation, split: str, values: Mapping[str, Tensor | None], prefix: str
) -> None:
    evaluation.metrics.update({f"{prefix}{key}": mean for key, mean in _means(values).items()})
    for key, value in values.items():
        if value is not None:
            evaluation.details[split]["intervals"] |= intervals({key: value[~value.isnan()]})


def _means(values: Mapping[str, Tensor | None]) -> Costs:
    return {key: float(v[~v.isnan()].mean()) for key, v in values.items() if v is not None}


def _perplexities(nats: Tensor, tokens: Tensor) -> list[float]:
    """The 95 % interval of exp(nats / tokens), over prompts."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(nats), (NUM_RESAMPLES, len(nats)), generator=generator)
    found = (nats[index].sum(1) / tokens[index].sum(1)).exp()
    ends: list[float] = torch.quantile(found, torch.tensor([0.025, 0.975]).double()).tolist()
    return ends

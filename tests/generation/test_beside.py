"""Two models that write one text: what is drawn from, and that the teacher reads along."""

from __future__ import annotations

import pytest
import torch
from positions_data import CachedNet, TokenNet

from kd_research.generation.beside import Beside, TeacherMixed, TeacherReplaces
from kd_research.generation.decode import generate
from kd_research.generation.settings import GenerationConfig
from kd_research.models.gpt import GPT

Q = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
P = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64)
PROMPTS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_mixtures_by_hand() -> None:
    assert TeacherMixed(0.2)(Q, P)[0].tolist() == pytest.approx([0.42, 0.36, 0.22])
    # K = 2: tokens 1 and 2 stay; the half of the mass that is outside is drawn by the teacher
    assert TeacherReplaces(2)(Q, P)[0].tolist() == pytest.approx([0.05, 0.6, 0.35])
    assert TeacherReplaces(3)(Q, P)[0].tolist() == pytest.approx(Q[0].tolist())
    assert TeacherReplaces(1)(Q, P).sum() == pytest.approx(1)
    for wrong in (lambda: TeacherMixed(1.2), lambda: TeacherReplaces(0)):
        with pytest.raises(ValueError, match="got"):
            wrong()


def test_a_proposal_and_its_replacement_are_this_one_distribution() -> None:
    """Algorithm 1 as it is written, drawn many times."""
    generator = torch.Generator().manual_seed(0)
    num = 40_000
    proposed = torch.multinomial(Q[0], num, replacement=True, generator=generator)
    instead = torch.multinomial(P[0], num, replacement=True, generator=generator)
    best = P[0].topk(2).indices
    drawn = torch.where(torch.isin(proposed, best), proposed, instead)
    shares = torch.bincount(drawn, minlength=3) / num
    assert (shares - TeacherReplaces(2)(Q, P)[0]).abs().max() < 0.01


def teacher_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    nets = {
        "gpt": lambda: GPT(11, 12, depth=2, width=16, heads=2),
        "cached": lambda: CachedNet(8),
        "whole": lambda: TokenNet(8),
    }
    return nets[kind]()


@pytest.mark.parametrize("kind", ["gpt", "cached", "whole"])
def test_a_share_of_one_is_the_teacher_s_text(kind: str) -> None:
    """Also with its cache, which reads a token at a time."""
    torch.manual_seed(0)
    student, teacher = GPT(11, 12, depth=1, width=8, heads=2), teacher_of(kind)
    config = GenerationConfig(max_new_tokens=7)
    beside = Beside(teacher, TeacherMixed(1.0), config)
    found = generate(student, PROMPTS, config, seed=1, propose=beside)
    expected = generate(teacher, PROMPTS, config, seed=1)
    assert torch.equal(found.tokens, expected.tokens)
    assert beside.forward_tokens == expected.forward_tokens
    alone = generate(
        student, PROMPTS, config, seed=1, propose=Beside(teacher, TeacherMixed(0.0), config)
    )
    assert torch.equal(alone.tokens, generate(student, PROMPTS, config, seed=1).tokens)


def test_the_teacher_reads_padded_prompts_too() -> None:
    student, teacher = teacher_of("gpt"), teacher_of("gpt")
    config = GenerationConfig(max_new_tokens=5)
    padded, mask = torch.tensor([[0, 0, 7], [4, 5, 6]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    both = [
        generate(
            student,
            prompts,
            config,
            seed=0,
            attention_mask=given,
            propose=Beside(teacher, TeacherReplaces(2), config),
        ).tokens[0]
        for prompts, given in ((padded, mask), (torch.tensor([[7]]), None))
    ]
    assert torch.equal(*both)

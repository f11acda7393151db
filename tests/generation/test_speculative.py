"""Speculative decoding: the target's distribution exactly, whatever the draft."""

import itertools

import pytest
import torch
from tiny_decoders import CONTEXT, KINDS, WithoutCache, decoder
from torch import nn

from kd_research.generation.decode import context_of, generate, probabilities
from kd_research.generation.settings import GenerationConfig
from kd_research.generation.speculative import (
    _Reader,
    expected_speedup,
    expected_tokens,
    replacement,
    speculate,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Chain(nn.Module):
    """The next token depends on the last one alone, by a table."""

    def __init__(self, seed: int, vocab: int = 3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(vocab, vocab, generator=generator) * 1.5

    def forward(self, input_ids):
        return self.table[input_ids]


def distributions(seed: int) -> torch.Tensor:
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)) * 2
    return logits.double().softmax(1)


@pytest.mark.parametrize("seed", range(4))
def test_one_token_enumerated_is_the_targets_distribution(seed):
    target, draft = distributions(seed)
    found = torch.zeros(6, dtype=torch.float64)
    rejected = 0.0
    for token in range(6):
        taken = min(1.0, float(target[token] / draft[token]))
        found[token] += draft[token] * taken
        rejected += float(draft[token]) * (1 - taken)
    rest = replacement(target, draft)
    found += rejected * rest / rest.sum()
    torch.testing.assert_close(found, target, rtol=0, atol=1e-12)
    assert rejected == pytest.approx(1 - float(torch.minimum(target, draft).sum()), abs=1e-12)
    assert torch.equal(replacement(target, target), target)


def test_whole_texts_come_as_often_as_the_target_writes_them():
    target, draft = Chain(0, vocab=2), Chain(1, vocab=2)
    how = GenerationConfig(max_new_tokens=3, temperature=0.9)
    number = 800
    counts = dict.fromkeys(itertools.product(range(2), repeat=3), 0)
    tested = accepted = 0
    for row in range(number):
        found = speculate(target, draft, torch.tensor([1]), how, lookahead=2, seed=0, row=row)
        counts[tuple(found.tokens.tolist())] += 1
        tested, accepted = tested + found.tested, accepted + found.accepted

    def surprise(model):  # chi-square against the texts of that model alone
        step, total = probabilities(model.table, how), 0.0
        for text, count in counts.items():
            expected = number
            for before, token in itertools.pairwise((1, *text)):
                expected *= float(step[before, token])
            total += (count - expected) ** 2 / expected
        return total

    assert surprise(target) < 24.3  # 1 in 1000, of 7 degrees of freedom
    assert surprise(draft) > 100
    assert 0.2 < accepted / tested < 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lookahead", [1, 4])
def test_greedy_text_is_the_targets_greedy_text(kind, lookahead):
    target, draft = decoder(kind), decoder("gpt", seed=1)
    how = GenerationConfig(max_new_tokens=20, temperature=0)
    prompt = torch.tensor([1, 2, 3])
    found = speculate(target, draft, prompt, how, lookahead=lookahead, seed=0)
    expected = generate(target, prompt.unsqueeze(0), how, seed=0).tokens[0]
    assert torch.equal(found.tokens, expected)
    assert found.accepted <= found.tested <= found.drafted


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_forgets_is_no_cache(kind):
    target, draft = decoder(kind), decoder(kind, seed=1)
    how = GenerationConfig(max_new_tokens=16, temperature=3.0)
    given = {"config": how, "lookahead": 3, "seed": 2}
    found = speculate(target, draft, torch.tensor([5, 6]), **given)
    slowly = speculate(WithoutCache(target), WithoutCache(draft), torch.tensor([5, 6]), **given)
    assert torch.equal(found.tokens, slowly.tokens)
    assert found[1:] == slowly[1:]
    assert 0 < found.accepted < found.tested
    reader = _Reader(target)
    reader.read([1, 2, 3, 4])
    reader.forget(2)
    again, fresh = reader.read([1, 2, 9]), _Reader(target).read([1, 2, 9])
    torch.testing.assert_close(again[-1], fresh[-1], rtol=0, atol=1e-5)


def test_a_draft_that_is_the_target_is_always_taken():
    model = decoder("gpt")
    how = GenerationConfig(max_new_tokens=20)
    found = speculate(model, model, torch.tensor([3]), how, lookahead=4, seed=0)
    assert found.accepted == found.tested == found.drafted == 16
    assert found.rounds == 4
    assert found.tokens.shape == (20,)


def test_a_text_ends_with_its_stop_token():
    model = decoder("gpt")
    whole = speculate(
        model, model, torch.tensor([3]), GenerationConfig(20), lookahead=4, seed=0
    ).tokens.tolist()
    stop = whole[9]
    how = GenerationConfig(max_new_tokens=20, stop=stop)
    found = speculate(model, model, torch.tensor([3]), how, lookahead=4, seed=0).tokens.tolist()
    assert found == whole[: whole.index(stop) + 1]


def test_the_formulas():
    assert expected_tokens(0.5, 1) == 1.5
    assert expected_tokens(0.8, 2) == pytest.approx(1 + 0.8 + 0.64)
    assert expected_tokens(1.0, 3) == 4
    assert expected_tokens(0.0, 3) == 1
    assert expected_speedup(0.8, 2, 0.1) == pytest.approx(2.44 / 1.2)


def test_wrong_input_is_told():
    model = decoder("gpt")
    prompt = torch.tensor([1])
    with pytest.raises(ValueError, match="lookahead must be >= 1, got 0; try lookahead=4"):
        speculate(model, model, prompt, GenerationConfig(4), lookahead=0, seed=0)
    with pytest.raises(ValueError, match="target's context of 48"):
        speculate(model, model, prompt, GenerationConfig(CONTEXT + 1), lookahead=2, seed=0)
    assert context_of(model) == CONTEXT
    full = speculate(model, model, prompt, GenerationConfig(CONTEXT), lookahead=5, seed=0)
    assert len(full.tokens) == CONTEXT
    with pytest.raises(ValueError, match="one row at a time"):
        speculate(model, model, torch.ones(1, 2), GenerationConfig(4), lookahead=2, seed=0)
    with pytest.raises(ValueError, match="23 tokens, the draft 3"):
        speculate(model, Chain(0), prompt, GenerationConfig(4), lookahead=2, seed=0)

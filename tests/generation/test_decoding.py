"""Drawing text: by seed whatever the batch, with a cache as without, padded as alone."""

import pytest
import torch
from tiny_decoders import CONTEXT, KINDS, VOCAB, WithoutCache, decoder
from torch import nn

from kd_research.generation.decode import draw, generate, pad_left, pick, probabilities, uniforms
from kd_research.generation.settings import GenerationConfig

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]
TEN = GenerationConfig(max_new_tokens=10)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def recorded(model, **settings):
    """What is written, and the logits of every step (B, N, V)."""
    seen = []

    def propose(logits, tokens, mask):
        assert tokens.shape == mask.shape
        seen.append(logits)
        return logits

    found = generate(model, propose=propose, **settings)
    return found, torch.stack(seen, dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_of_padded_rows_is_the_full_forward_of_each_alone(kind):
    model = decoder(kind)
    tokens, mask = pad_left(PROMPTS)
    found, logits = recorded(model, prompts=tokens, config=TEN, seed=0, attention_mask=mask)
    again, slowly = recorded(
        WithoutCache(model), prompts=tokens, config=TEN, seed=0, attention_mask=mask
    )
    assert torch.equal(found.tokens, again.tokens)
    torch.testing.assert_close(logits, slowly, rtol=0, atol=1e-5)
    assert found.forward_tokens == 4 * (6 + 9)
    assert again.forward_tokens == 4 * sum(range(6, 16))
    for row, prompt in enumerate(PROMPTS):
        whole = torch.tensor([prompt + found.tokens[row].tolist()])
        with torch.no_grad():
            alone = model(input_ids=whole)
        alone = alone if isinstance(alone, torch.Tensor) else alone["logits"]
        expected = alone[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_depends_on_seed_step_and_row_not_on_the_batch(kind):
    model = decoder(kind)
    tokens, mask = pad_left(PROMPTS)
    rows = torch.tensor([3, 1, 4, 15])
    given = {"config": TEN, "seed": 5}
    together = generate(model, tokens, rows=rows, attention_mask=mask, **given).tokens
    for place, prompt in enumerate(PROMPTS):
        alone = generate(model, torch.tensor([prompt]), rows=rows[[place]], **given).tokens
        assert torch.equal(alone[0], together[place])
    same = torch.tensor([[1, 2, 3]] * 3)
    texts = [
        generate(model, same, TEN, seed=seed, step=step).tokens.tolist()
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(row) for text in texts for row in text}) == 9


def test_greedy_takes_the_likeliest_and_of_equal_ones_the_first():
    logits = torch.tensor([[0.0, 3.0, 3.0], [-1.0, -2.0, -1.0]])
    greedy = GenerationConfig(temperature=0)
    assert draw(logits, torch.tensor([0.99, 0.0]), greedy).tolist() == [1, 0]
    model = decoder("gpt")
    prompt = torch.tensor([[1, 2, 3]])
    config = GenerationConfig(max_new_tokens=6, temperature=0)
    found = [generate(model, prompt, config, seed=seed).tokens for seed in (0, 1)]
    assert torch.equal(*found)
    tokens = prompt
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found[0], tokens[:, 3:])


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}])
def test_the_distribution_is_hugging_faces(changes):
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    found = probabilities(logits, GenerationConfig(**changes))
    warpers = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
    }
    expected = logits.double()
    for name, value in changes.items():
        expected = warpers[name](value)(None, expected)
    torch.testing.assert_close(found, expected.softmax(1), rtol=0, atol=1e-12)
    assert found.sum(1).tolist() == pytest.approx([1] * 5, abs=1e-12)


def test_exactly_k_of_equal_tokens_stay():
    found = probabilities(torch.zeros(1, 4), GenerationConfig(top_k=3))
    assert found.tolist() == [pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])]


def test_tokens_come_as_often_as_they_are_likely():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    config = GenerationConfig(top_p=0.95)
    number = 40_000
    chances = uniforms(0, 0, range(1), number)[0]
    drawn = draw(logits.expand(number, -1), chances, config)
    expected = probabilities(logits, config)[0]
    counts = torch.bincount(drawn, minlength=4).double()
    assert counts[2] == 0 == expected[2]
    used = expected > 0
    chi = ((counts - number * expected)[used] ** 2 / (number * expected[used])).sum()
    assert chi < 13.8  # 1 in 1000, of 2 degrees of freedom


def test_a_draw_never_falls_on_what_has_no_weight():
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert pick(weights, torch.zeros(1).double()).tolist() == [1]
    assert pick(weights, almost).tolist() == [2]
    assert pick(weights, torch.ones(1).double()).tolist() == [2]


def test_more_uniform_numbers_begin_with_the_same():
    few, many = uniforms(0, 1, [7, 2], 3), uniforms(0, 1, [2, 7], 9)
    assert torch.equal(few, many[[1, 0], :3])
    assert not torch.equal(few, uniforms(0, 1, [7, 2], 3, stream="other"))


def test_a_row_ends_with_its_stop_token():
    class Counts(nn.Module):
        """Writes the number after the last one."""

        def forward(self, input_ids):
            return nn.functional.one_hot((input_ids + 1) % 10, 10).float() * 1e4

    config = GenerationConfig(max_new_tokens=8, stop=7)
    found = generate(Counts(), torch.tensor([[1], [5], [7]]), config, seed=0, pad=9)
    assert found.tokens.tolist() == [
        [2, 3, 4, 5, 6, 7, 9, 9],
        [6, 7, 9, 9, 9, 9, 9, 9],
        [8, 9, 0, 1, 2, 3, 4, 5],
    ]
    assert found.mask.sum(1).tolist() == [6, 2, 8]
    early = generate(Counts(), torch.tensor([[1], [5]]), config, seed=0)
    assert early.tokens.shape == (2, 6)


def test_every_module_is_put_back_into_its_mode():
    model = decoder("gpt").train()
    model.stages[0].eval()
    before = [module.training for module in model.modules()]
    model.dropout.p = 0.9
    texts = [generate(model, torch.tensor([[1]]), TEN, seed=0).tokens for _ in range(2)]
    assert torch.equal(*texts)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_beyond_the_context_is_told_before_anything_is_written(kind):
    model = decoder(kind)
    prompt = torch.ones(1, CONTEXT - 9, dtype=torch.int64)
    assert generate(model, prompt, TEN, seed=0).tokens.shape == (1, 10)
    longer = torch.ones(1, CONTEXT - 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="context of 48 tokens; try max_new_tokens=9, or"):
        generate(model, longer, TEN, seed=0)
    with pytest.raises(ValueError, match="context of 48 tokens; a shorter prompt"):
        generate(model, torch.ones(1, 60, dtype=torch.int64), TEN, seed=0)
    # what is padding in every row does not count
    mask = torch.cat([torch.zeros(1, 1), torch.ones(1, CONTEXT - 9)], dim=1)
    found = generate(model, longer, TEN, seed=0, attention_mask=mask).tokens
    assert torch.equal(found, generate(model, prompt, TEN, seed=0).tokens)


def test_padding_that_a_model_cannot_be_told_of_is_refused():
    class Plain(nn.Module):
        def forward(self, input_ids):
            raise AssertionError

    tokens, mask = pad_left(PROMPTS)
    with pytest.raises(ValueError, match="Plain takes no attention_mask"):
        generate(Plain(), tokens, TEN, seed=0, attention_mask=mask)
    with pytest.raises(ValueError, match="pad on the left"):
        generate(Plain(), tokens, TEN, seed=0, attention_mask=mask.flip(1))
    with pytest.raises(ValueError, match=r"attention_mask is \(4, 5\)"):
        generate(Plain(), tokens, TEN, seed=0, attention_mask=mask[:, 1:])


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ValueError, match="max_new_tokens") as error:
        GenerationConfig(max_new_tokens=0, temperature=-1, top_k=0, top_p=0, stop=-2)
    lines = str(error.value).splitlines()
    names = ["max_new_tokens", "temperature", "top_k", "top_p", "stop"]
    assert [line.split()[0] for line in lines] == names
    with pytest.raises(ValueError, match="top_p"):
        GenerationConfig(top_p=float("nan"))

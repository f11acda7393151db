"""The small GPT: causal, packed, cached; and other people's decoders called the same way."""

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_extras import CONF

from kd_research.interfaces import same_document
from kd_research.models.capture import Capture
from kd_research.models.gpt import GPT

DATASET = {"num_classes": 65, "vocab_size": 65, "context": 64}
SIZES = {  # parameters without the positions, as nanoGPT counts them
    "gpt": (65, 64, 0.80),
    "gpt_10m": (65, 256, 10.65),
    "gpt2": (50257, 1024, 123.65),
    "gpt2_medium": (50257, 1024, 353.77),
    "gpt2_large": (50257, 1024, 772.72),
    "gpt2_xl": (50257, 1024, 1555.97),
}


def load(name: str, **changes):
    raw = OmegaConf.merge(OmegaConf.load(CONF / "gpt.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    raw.pop("defaults", None)
    config = OmegaConf.create({"dataset": DATASET, "model": raw})
    config.model.update(changes)
    return instantiate(config.model)


def random_net(name: str, context: int = 64):
    if name == "gpt":
        return load("gpt", width=32, depth=2, bias=True).eval()
    pytest.importorskip("transformers", reason="the extra transformers is not installed")
    config = {"dataset": DATASET, "model": OmegaConf.load(CONF / "causal_lm_random.yaml")}
    config["model"]["config"]["model_type"] = name
    if name == "gpt2":
        for key in list(config["model"]["config"]):
            if key not in ("_target_", "model_type", "vocab_size", "use_cache"):
                del config["model"]["config"][key]
        config["model"]["config"].update(n_embd=32, n_layer=2, n_head=4, n_positions=context)
    else:
        config["model"]["config"].update(hidden_size=32, num_hidden_layers=2)
    return instantiate(OmegaConf.create(config).model).eval()


def ids(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(65, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_are_nanogpts(name):
    vocab_size, context, millions = SIZES[name]
    with torch.device("meta"):
        model = load(name, vocab_size=vocab_size, context=context)
    count = sum(parameter.numel() for parameter in model.parameters())
    count -= model.positions.weight.numel()
    assert round(count / 1e6, 2) == pytest.approx(millions, abs=0.01)


def test_no_position_sees_a_later_one():
    model = random_net("gpt")
    inputs, changed = ids(), ids()
    changed[:, 8:] = (changed[:, 8:] + 1) % 65
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["gpt", "llama", "gpt2"])
def test_packed_documents_do_not_see_each_other(name):
    torch.manual_seed(0)
    run = Capture(random_net(name))
    first, second, third = ids(1, 5), ids(1, 4) + 1, ids(1, 3)
    packed = torch.cat([first, second, third], dim=1)
    positions = torch.cat([torch.arange(n) for n in (5, 4, 3)]).unsqueeze(0)
    with torch.no_grad():
        together = run({"input_ids": packed, "position_ids": positions}).logits
        alone = [run({"input_ids": part}).logits for part in (first, second, third)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)
    # Positions alone would not do it: the documents matter.
    unaware = run({"input_ids": packed}).logits
    assert not torch.allclose(unaware[:, 5:], together[:, 5:], atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["gpt", "llama", "gpt2"])
@pytest.mark.parametrize("steps", [[1] * 12, [5, 7], [4, 1, 1, 6]])
def test_decoding_with_a_cache_is_the_full_forward(name, steps):
    torch.manual_seed(0)
    model, inputs = random_net(name), ids()
    with torch.no_grad():
        full = Capture(model)({"input_ids": inputs}).logits
        past, found = None, []
        for part in inputs.split(steps, dim=1):
            result = model(input_ids=part, past_key_values=past, use_cache=True)
            past = result["past_key_values"]
            found.append(result["logits"])
    torch.testing.assert_close(torch.cat(found, dim=1), full, rtol=1e-4, atol=1e-5)


def test_a_text_longer_than_the_context_is_told():
    model = random_net("gpt")
    with pytest.raises(ValueError, match="65 positions are more than the model's context of 64"):
        model(ids(1, 65))
    past = model(ids(1, 60), use_cache=True)["past_key_values"]
    with pytest.raises(ValueError, match="65 positions are more"):
        model(ids(1, 5), past_key_values=past)
    with pytest.raises(ValueError, match="multiple of heads=4, got 18; try width=20"):
        GPT(vocab_size=8, context=4, depth=1, width=18, heads=4)


def test_which_positions_a_packed_one_sees():
    seen = same_document(torch.tensor([[0, 1, 0, 1]]))[0, 0]
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert seen.int().tolist() == expected


def test_it_learns_to_copy_and_its_layers_can_be_named():
    torch.manual_seed(0)
    model = GPT(vocab_size=8, context=16, depth=2, width=32, heads=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(250):
        half = torch.randint(8, (32, 8), generator=generator)
        text = half.repeat(1, 2)
        loss = F.cross_entropy(model(text[:, :-1])[:, 7:].flatten(0, 1), text[:, 8:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # from ln 8 = 2.08
    layers = ["stages.-1", "stages.0.attention.query", "norm"]
    features = Capture(model, layers)({"input_ids": text}).features
    assert [tuple(features[name].shape) for name in layers] == [(32, 16, 32)] * 3
    assert model.head.weight is model.embedding.weight

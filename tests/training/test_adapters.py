"""Adapters of any model of text: what trains, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from later import Later
from positions_data import CONTEXT, VOCABULARY, with_positions
from tiny import Compose, plain
from torch import nn

from kd_research.configuration.config import ConfigError, check, save
from kd_research.configuration.resolvers import student_of
from kd_research.models.capture import Capture
from kd_research.models.gpt import GPT
from kd_research.models.text import BagOfEmbeddings, TextTransformer
from kd_research.records.record import CONFIG_NAME
from kd_research.teacher.checkpoint import save_weights
from kd_research.training.adapters import FewShot, adapt, adapted, trained_parameters
from kd_research.trial.assembly import Parts
from kd_research.trial.parts import tell_random_base
from kd_research.trial.run import run

peft = Later("peft", extra="adapters")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
IDS = torch.randint(1, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(1))
TEXT = {"input_ids": IDS}
CLASSIFIED = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
BEFORE = 5


def gpt() -> nn.Module:
    return GPT(VOCABULARY, CONTEXT + BEFORE, depth=2, width=16, heads=2, dropout=0.1)


def hugging_face(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, num_labels=3, intermediate_size=32, **sizes
        )
        return transformers.AutoModelForSequenceClassification.from_config(config)
    sizes = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        "llama": {
            **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32},
        },
    }[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


MODELS: dict[str, Any] = {
    "gpt": gpt,
    "gpt2": lambda: hugging_face("gpt2"),
    "llama": lambda: hugging_face("llama"),
    "bert": lambda: hugging_face("bert"),
    "text_transformer": lambda: TextTransformer(3, VOCABULARY, 16, 2, heads=2),
    "bag": lambda: BagOfEmbeddings(3, VOCABULARY, 8, depth=1),
}
DECODERS = ("gpt", "gpt2", "llama")
ADAPTERS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules="all-linear"),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=BEFORE),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=BEFORE),
}
CASES = [
    (model, adapter)
    for model in MODELS
    for adapter in ADAPTERS
    if adapter != "prefix" or model in DECODERS
]


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    return TEXT if name in DECODERS else CLASSIFIED


def say(model: nn.Module, inputs: Any) -> torch.Tensor:
    return Capture(model)(inputs).logits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_the_adapter_learns_and_its_effect_is_there_without_gradients(
    name: str, kind: str
) -> None:
    torch.manual_seed(0)
    base, inputs = MODELS[name]().eval(), inputs_of(name)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    with torch.no_grad():
        plain = say(base, inputs)
    model = adapt(base, ADAPTERS[kind](), inputs, lambda num: ()).eval()
    trained = [each for each in model.parameters() if each.requires_grad]
    assert 0 < trained_parameters(model) < sum(each.numel() for each in model.parameters())
    with torch.no_grad():
        begun = say(model, inputs)
    assert begun.shape == plain.shape
    if kind == "lora":  # which begins as nothing
        torch.testing.assert_close(begun, plain)
    optimizer = torch.optim.Adam(trained, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        say(model, inputs).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        silent = say(model, inputs)
    torch.testing.assert_close(silent, say(model, inputs), rtol=1e-4, atol=1e-5)
    assert (silent - begun).abs().max() > 1e-5
    head = {f"{each}.weight" for each in ("head", "classifier", "lm_head")}
    for path, module in model.named_modules():  # what was there is as it was, but for a new head
        own = path.removeprefix("model.").replace(".base_layer", "")
        for end, value in module.named_parameters(recurse=False):
            key = f"{own}.{end}"
            if key in before and key not in head and not key.startswith(("head", "classifier")):
                assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["prompt", "prefix", "few"])
def test_what_comes_before_the_text_is_in_the_cache(name: str, kind: str) -> None:
    torch.manual_seed(0)
    shots = FewShot(1)
    adapter = shots if kind == "few" else ADAPTERS[kind]()
    model = adapt(MODELS[name](), adapter, TEXT, lambda num: [torch.arange(BEFORE) + 1]).eval()
    with torch.no_grad():
        whole = say(model, TEXT)
        found = model(input_ids=IDS[:, :4], use_cache=True)
        rest = [found["logits"]]
        for place in (4, 5):
            past = found["past_key_values"]
            found = model(input_ids=IDS[:, place : place + 1], past_key_values=past, use_cache=True)
            rest.append(found["logits"])
    torch.testing.assert_close(torch.cat(rest, dim=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_few_shot_is_the_model_on_the_whole_text(name: str) -> None:
    torch.manual_seed(0)
    base = MODELS[name]().eval()
    shown = torch.tensor([3, 4, 2])
    whole = {"input_ids": torch.cat([shown.expand(3, -1), IDS], dim=1)}
    with torch.no_grad():
        expected = say(base, whole)[:, 3:]
        model = adapt(base, FewShot(2), TEXT, lambda num: [shown[:1], shown[1:]]).eval()
        assert trained_parameters(model) == 0
        torch.testing.assert_close(say(model, TEXT), expected)


def test_prefixes_say_the_same_of_padded_rows() -> None:
    torch.manual_seed(0)
    for kind in ("prompt", "prefix"):
        model = adapt(gpt(), ADAPTERS[kind](), TEXT, lambda num: ()).eval()
        padded = torch.nn.functional.pad(IDS, (2, 0))
        mask = (torch.arange(8) >= 2).long().expand(3, -1)
        with torch.no_grad():
            found = model(input_ids=padded, attention_mask=mask)[:, 2:]
            torch.testing.assert_close(found, model(input_ids=IDS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "adapter", "inputs", "told"),
    [
        ("gpt", lambda: peft.LoraConfig(target_modules=["q_proj"]), TEXT, "q_proj, which GPT has"),
        ("bag", ADAPTERS["prefix"], CLASSIFIED, "needs a model with past_key_values"),
        ("gpt", lambda: object(), TEXT, "is a object, which is no adapter; try adapter@student"),
        (
            "gpt",
            lambda: peft.PromptTuningConfig(num_virtual_tokens=40),
            TEXT,
            r"more than the model's context of 17; type student.adapter.num_virtual_tokens=11, or "
            r"student.model.context=46 for",
        ),
        (
            "gpt",
            lambda: peft.PrefixTuningConfig(num_virtual_tokens=12),
            TEXT,
            r"num_virtual_tokens=11, or dataset.context=5 student.model.context=17, or ",
        ),
        ("gpt", ADAPTERS["prompt"], {**TEXT, "position_ids": IDS}, "type dataset.pack=false"),
        (
            "text_transformer",
            lambda: peft.LoraConfig(target_modules=["out_proj"]),
            CLASSIFIED,
            "has no effect, since TextTransformer does not call that layer",
        ),
    ],
)
def test_what_does_not_fit_is_told(model: str, adapter: Any, inputs: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        adapt(MODELS[model](), adapter(), inputs, lambda num: ())


def with_gpt(tiny: Compose, tmp_path: Path, *overrides: str) -> Any:
    """A student and a teacher that start from one base, 12 tokens long."""
    config = with_positions(tiny, "loss=fkl", *overrides)
    model = {
        **{"_target_": "kd_research.models.gpt.GPT", "vocab_size": VOCABULARY, "depth": 2},
        **{"context": 96, "width": 16, "heads": 2, "dropout": 0.5},
    }
    torch.manual_seed(3)
    base = tmp_path / "base.pt"
    save_weights(GPT(**{key: value for key, value in model.items() if key != "_target_"}), base)
    for who in ("student", "teacher"):
        config[who].model, config[who].checkpoint = model, str(base)
    return config


def test_a_run_trains_and_saves_the_adapter_alone_and_may_teach(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_gpt(tiny, tmp_path, "adapter@student.adapter=lora", "student.adapter.r=2")
    saved: list[set[str]] = []
    whole = torch.save

    def watch(content: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(content, dict) and "state_dict" in content:
            saved.append(set(content["state_dict"]))
        whole(content, *arguments, **options)

    monkeypatch.setattr(torch, "save", watch)
    record = run(config, tmp_path / "run")
    assert record.status == "completed", record.error
    assert saved
    assert all("lora_" in name or "val_" in name for names in saved for name in names)
    layers = 2 * (4 * 2 * (16 + 16) + 2 * 2 * (16 + 64))
    assert record.costs["trained_parameters"] == layers
    own = record.costs["num_params"]
    assert own is not None
    assert own == record.costs["teacher_num_params"] + layers  # type: ignore[operator]
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    base = torch.load(tmp_path / "base.pt", weights_only=True)
    assert torch.equal(weights["stages.0.up.base_layer.weight"], base["stages.0.up.weight"])

    save(config, tmp_path / "run" / CONFIG_NAME)
    other = with_gpt(tiny, tmp_path)
    other.teacher.model = student_of(str(tmp_path / "run"))
    other.teacher.checkpoint = str(tmp_path / "run")
    parts = Parts(plain(other))
    assert parts.teacher is not None
    assert parts.teacher.module.state_dict().keys() == weights.keys()


def test_the_dropout_of_a_student_that_shares_the_teacher_s_base_stays_on(
    tiny: Compose, tmp_path: Path
) -> None:
    parts = Parts(plain(with_gpt(tiny, tmp_path, "adapter@student.adapter=lora")))
    module, teacher = parts.module, parts.teacher
    assert teacher is not None
    shared = {id(each) for each in parts.student.modules()} & {
        id(each) for each in teacher.module.modules()
    }
    assert not shared
    module.train()
    batch = parts.example(4)
    module.run_teacher(batch.inputs)
    teacher.module.eval()  # as trl#5862 did of a shared base
    student = Capture(parts.student)
    assert not torch.equal(student(batch.inputs).logits, student(batch.inputs).logits)
    taught = module.run_teacher(batch.inputs).logits
    assert torch.equal(taught, module.run_teacher(batch.inputs).logits)
    assert all(not each.training for each in teacher.module.modules())


def test_few_shot_makes_no_step_and_draws_from_the_training_part_by_seed(
    tiny: Compose, tmp_path: Path
) -> None:
    shots = ("adapter@student.adapter=few_shot", "student.adapter.examples=3")
    config = with_gpt(tiny, tmp_path, *shots, "trainer.max_epochs=0")
    record = run(config, tmp_path / "run")
    assert record.status == "completed", record.error
    assert record.costs["trained_parameters"] == 0
    assert record.selection["epoch"] == -1
    assert record.metrics["val_nll"] == pytest.approx(record.selection["value"], rel=1e-5)
    assert record.metrics["teacher_kl"] is not None
    parts = Parts(plain(config))
    tokens = parts.student.tokens
    train = parts.data.train
    assert isinstance(train.inputs, dict)
    documents = [
        [int(row[0]), *labels[: len(row)].tolist()]
        for row, labels in zip(train.inputs["input_ids"], train.labels, strict=True)
    ]
    ends = {tuple(each[-4:]) for each in documents}
    assert tuple(tokens[-4:].tolist()) in ends
    config.seed = 1
    assert not torch.equal(Parts(plain(config)).student.tokens, tokens)


def test_so_many_examples_as_there_is_room_for_are_advised() -> None:
    with pytest.raises(ValueError, match=r"40 positions \(8 examples\) and 6 .*examples=2, or st"):
        adapt(gpt(), FewShot(8), TEXT, lambda num: [torch.arange(5)] * num)


def test_an_adapter_beside_random_weights_is_told(caplog: pytest.LogCaptureFixture) -> None:
    adapter = {"_target_": "peft.LoraConfig"}
    for target, more, told in (
        ("kd_research.models.gpt.GPT", {}, True),
        ("kd_research.models.gpt.GPT", {"checkpoint": "base.pt"}, False),
        ("kd_research.models.gpt.GPT", {"from_teacher": {"layers": [0]}}, False),
        ("kd_research.models.gpt.GPT", {"adapter": {}}, False),
        ("transformers.AutoModelForCausalLM.from_config", {}, True),
        ("transformers.AutoModelForCausalLM.from_pretrained", {}, False),
        ("mine.Net", {}, False),
    ):
        caplog.clear()
        tell_random_base({"student": {"model": {"_target_": target}, "adapter": adapter, **more}})
        assert ("beside random weights" in caplog.text) == told, (target, more)


def test_a_few_shot_student_that_would_train_is_told(tiny: Compose, tmp_path: Path) -> None:
    config = with_gpt(tiny, tmp_path, "adapter@student.adapter=few_shot")
    with pytest.raises(ConfigError, match=r"trains nothing, got .* type trainer.max_epochs=0"):
        check(config)
    with pytest.raises(ValueError, match="no teacher by its folder"):
        adapted(gpt(), FewShot(2))

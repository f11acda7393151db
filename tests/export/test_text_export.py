"""A language student in the forms of others: transformers' folder, ONNX with a cache, its card."""

import json

import pytest
import torch
from language_folder import language_run
from later import Later
from tiny import plain
from tiny_decoders import VOCAB, WithoutCache, decoder

from kd_research.configuration.config import load
from kd_research.export import cached_form, causal_lm
from kd_research.export.onnx_form import OnnxStudent
from kd_research.models.gpt import GPT
from kd_research.records.record import read_record
from kd_research.trial.assembly import Parts
from kd_research.trial.language_run import open_language_run

onnx = Later("onnx", extra="export")
transformers = Later("transformers", extra="transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Vocabulary:
    """As much of a tokenizer as is saved."""

    def save(self, path: str) -> None:
        open(path, "w").close()

    def id_to_token(self, token: int) -> str:
        return "<end>"


def tokens(rows: int = 3, length: int = 20) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [False, True])
def test_a_gpt_is_loaded_as_gpt2_that_says_the_same(bias, tmp_path):
    torch.manual_seed(0)
    model = GPT(VOCAB, 32, depth=2, width=16, heads=4, bias=bias, dropout=0.1).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert causal_lm.to_transformers(model, Vocabulary(), 7, tmp_path) is None
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, transformers.GPT2LMHeadModel)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens()).logits, model(tokens()), rtol=1e-4, atol=1e-4)
    assert causal_lm.difference(model, tmp_path, {"input_ids": tokens()}) < 1e-4
    assert loaded.config.eos_token_id == 7
    assert loaded.config.resid_pdrop == 0.1
    sizes = [sum(p.numel() for p in net.parameters()) for net in (model, loaded)]
    assert sizes[0] == sizes[1] if bias else sizes[0] < sizes[1]
    model.stages[0].up.weight.data += 0.1
    assert causal_lm.difference(model, tmp_path, {"input_ids": tokens()}) > 1e-3


def test_a_decoder_of_transformers_is_saved_as_it_is(tmp_path):
    model = decoder("llama")
    assert causal_lm.to_transformers(model, Vocabulary(), None, tmp_path) is None
    assert causal_lm.difference(model, tmp_path, {"input_ids": tokens()}) < 1e-5


def test_what_transformers_has_not_is_told(tmp_path):
    why = causal_lm.to_transformers(WithoutCache(decoder("gpt")), Vocabulary(), None, tmp_path)
    assert why == "transformers has no architecture for WithoutCache"
    peft = pytest.importorskip("peft")
    model = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["query"]), decoder("gpt"))
    assert "adapter" in causal_lm.to_transformers(model, Vocabulary(), None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_onnx_with_a_cache_is_the_full_forward(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = decoder("llama", depth=1)
    assert cached_form.to_cached_onnx(model, tmp_path / "decoder.onnx") is None
    reader = cached_form.CachedStudent(tmp_path / "decoder.onnx")
    assert cached_form.difference(reader, model, tokens()) < 1e-4
    assert cached_form.difference(reader, model, tokens(1, 33)) < 1e-4
    assert cached_form.difference(reader, decoder("llama", seed=1, depth=1), tokens()) > 1e-2
    why = cached_form.to_cached_onnx(WithoutCache(model), tmp_path / "none.onnx")
    assert why == "WithoutCache keeps no cache that is known here"


def test_a_run_is_exported_with_all_forms_and_cards(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from kd_research.export.__main__ import main

    run = language_run(tmp_path)
    assert main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "onnx_cache: max difference" in printed
    found = json.loads((run / "export.json").read_text())
    assert 0 <= found["max_difference"]["onnx_cache"] < 1e-4
    assert 0 <= found["max_difference"]["transformers"] < 1e-4
    decoder_file = run / "export" / "decoder.onnx"
    assert found["costs"]["onnx_cache_bytes"] == decoder_file.stat().st_size
    smaller = run / "export" / "decoder.int8.onnx"
    assert found["costs"]["int8_cache_bytes"] == smaller.stat().st_size
    assert smaller.stat().st_size < decoder_file.stat().st_size
    kinds = {each.data_type for each in onnx.load(smaller).graph.initializer}
    assert kinds & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    for form in ("onnx_cache", "int8_cache"):
        assert found["costs"][f"{form}_decode_tokens_per_second"] > 0
        assert found["costs"][f"{form}_prefill_tokens_per_second"] > 0
    assert found["max_difference"]["int8_cache"] > found["max_difference"]["onnx_cache"]
    opened, record = open_language_run(run), read_record(run)
    module = record.costs["peak_memory_bytes"]
    assert 0.7 * module < found["costs"]["onnx_peak_memory_bytes"] < 1.3 * module
    assert found["costs"]["int8_peak_memory_bytes"] < found["costs"]["onnx_peak_memory_bytes"]
    parts = Parts(plain(load(run / "config.yaml")))
    worth = parts.evaluate_positions(OnnxStudent(run / "export" / "student.int8.onnx")).metrics
    for name in ("val_nll", "test_perplexity", "teacher_kl", "test_teacher_agreement"):
        assert found["metrics"][f"int8_{name}"] == worth[name]
        assert abs(worth[name] / record.metrics[name] - 1) < 0.2
    assert found["metrics"]["int8_val_nll"] != record.metrics["val_nll"]
    assert f"int8: val_accuracy {worth['val_accuracy']:.4g}" in printed
    ids = torch.tensor(opened.tokens.encode(["the cat"]))
    reader = cached_form.CachedStudent(decoder_file)
    read = reader(ids)["logits"]
    torch.testing.assert_close(read, opened.student(ids).detach(), rtol=1e-4, atol=1e-5)
    theirs = run / "export" / "transformers"
    config = transformers.AutoConfig.from_pretrained(theirs)
    assert config.eos_token_id is config.bos_token_id is None, "not GPT-2's own, 50256"
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    assert tokenizer("the cat")["input_ids"] == ids[0].tolist()
    assert tokenizer.decode(ids[0]) == "the cat"
    for card in (run / "export" / "README.md", theirs / "README.md"):
        text = card.read_text()
        assert f"{record.metrics['val_perplexity']:.4g}" in text
        assert f"{record.metrics['teacher_agreement']:.4g}" in text
        assert f"{record.costs['num_params']:,}" in text
        assert "seed 0: n = 1" in text
        assert str(tmp_path) not in text
    assert "AutoModelForCausalLM" in text
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert f"| `{name}` |" in text
    modes = {path.name: path.stat().st_mode for path in theirs.iterdir()}
    assert len(set(modes.values())) == 1, modes
    card = (run / "export" / "README.md").read_text()
    assert f"{worth['val_nll']:.4g}" in card
    assert f"{smaller.stat().st_size:,}" in card
    assert "cache_bytes" not in card
    assert "| `decoder.onnx` |" in (run / "export" / "README.md").read_text()

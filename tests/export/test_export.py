"""Exported students, read back by ONNX Runtime alone and compared with the module."""

import io
import json
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from later import Later
from tiny import plain

from kd_research.configuration.config import load, save
from kd_research.interfaces import Batch
from kd_research.records.record import read_record
from kd_research.report import write_report
from kd_research.teacher.checkpoint import load_weights
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts

onnx, onnxruntime = (Later(name, extra="export") for name in ("onnx", "onnxruntime"))
Later("onnxscript", extra="export")

from kd_research.export import (  # noqa: E402
    NUM_CALIBRATION,
    Export,
    Form,
    _calibration,
    executorch_form,
    onnx_form,
)
from kd_research.export.__main__ import main  # noqa: E402
from kd_research.export.raw_inputs import RawInputs, RawStudent, take_raw  # noqa: E402
from kd_research.models.gpt import GPT  # noqa: E402
from kd_research.models.text import BagOfEmbeddings, BiLSTM  # noqa: E402
from kd_research.training.adapters import adapt  # noqa: E402

TRACKED, PRINTED = [], []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One tiny run, exported with a tolerance that no difference meets."""
    from tiny import TINY, composed

    folder = tmp_path_factory.mktemp("runs") / "one"
    config = composed(*TINY, f"output_dir={folder.parent / 'outputs'}", "trainer.max_epochs=4")
    save(config, folder / "config.yaml")
    record = trial.run(config, folder)
    assert record.status == "completed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_research.export.track_export", lambda *given: TRACKED.append(given))
        with redirect_stdout(io.StringIO()) as printed:
            code = main([str(folder), "--tolerance", "-1"])
        PRINTED.append(printed.getvalue())
        return folder, code


def read_back(folder, name):
    return onnxruntime.InferenceSession(folder / "export" / name)


def test_the_files_say_what_the_module_says(run):
    folder, _ = run
    parts = Parts(plain(load(folder / "config.yaml")))
    load_weights(parts.student, folder / "weights.pt")
    split, student = parts.data.val, parts.student.eval()
    index = torch.arange(len(split))
    inputs = split.take(index).inputs  # raw: the normalisation is in the file
    with torch.no_grad():
        expected = student(parts.data.prepare(Batch(inputs, split.labels, index)).inputs)
    assert not torch.allclose(student(inputs.float()), expected, atol=0.1)
    found = json.loads((folder / "export.json").read_text())
    session = read_back(folder, "student.onnx")
    name = session.get_inputs()[0].name
    assert (name, session.get_outputs()[0].name) == ("image", "logits")
    for size in (1, 7, len(split)):  # the batch is dynamic
        (logits,) = session.run(None, {name: inputs[:size].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[:size], rtol=0, atol=1e-4)
    assert 0 <= found["max_difference"]["onnx"] < 1e-4
    (logits,) = read_back(folder, "student.int8.onnx").run(None, {name: inputs.numpy()})
    accuracy = float((torch.from_numpy(logits).argmax(1) == split.labels).float().mean())
    assert found["metrics"]["int8_val_accuracy"] == pytest.approx(accuracy)
    assert found["max_difference"]["int8"] > found["max_difference"]["onnx"]
    assert found["costs"]["int8_bytes"] == (folder / "export" / "student.int8.onnx").stat().st_size


def test_the_printed_snippet_gives_the_recorded_accuracy(run, capsys):
    folder, _ = run
    lines = PRINTED[0].split("alone:\n\n")[1].split("\n\n")[0].splitlines()
    assert len(lines) <= 8
    assert [line for line in lines if "import" in line] == ["import numpy, onnxruntime"]
    exec("\n".join(lines), {})
    accuracy = read_record(folder).metrics["val_accuracy"]
    assert float(capsys.readouterr().out) == pytest.approx(accuracy)
    assert lines[-1].endswith(f"# val_accuracy {accuracy:.4f}")


def test_a_file_says_what_it_is(run):
    folder, _ = run
    record = read_record(folder)
    for name in ("student.onnx", "student.int8.onnx"):
        known = read_back(folder, name).get_modelmeta().custom_metadata_map
        assert known["inputs"] == "raw"
        assert json.loads(known["classes"]) == 10
        assert json.loads(known["mean"]) == [0.305]
        assert json.loads(known["deviation"]) == [0.376]
        assert json.loads(known["resize"]) == [1, 8, 8]
        assert float(known["val_accuracy"]) == record.metrics["val_accuracy"]
        assert float(known["test_accuracy"]) == record.metrics["test_accuracy"]


def test_normalised_files_take_what_the_student_saw(run, tmp_path, capsys):
    for name in ("config.yaml", "weights.pt", "record.json"):
        shutil.copy(run[0] / name, tmp_path)
    assert main([str(tmp_path), "--normalised", "--tolerance", "1e-3"]) == 0
    with np.load(tmp_path / "export" / "val.npz") as content:
        given = {"image": content["image"]}
    (logits,) = read_back(tmp_path, "student.onnx").run(["logits"], given)
    raw = read_back(run[0], "student.onnx")
    with np.load(run[0] / "export" / "val.npz") as content:
        assert not np.allclose(content["image"], given["image"])
        (expected,) = raw.run(["logits"], {"image": content["image"]})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    known = read_back(tmp_path, "student.onnx").get_modelmeta().custom_metadata_map
    assert known["inputs"] == "normalised"


def test_bytes_are_cropped_and_normalised_in_the_graph(tmp_path):
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 3 * 4, 5)).eval()
    scale = 1 / (255 * torch.tensor([0.2, 0.3]).view(2, 1, 1))
    shift = -torch.tensor([0.5, 0.4]).view(2, 1, 1) / torch.tensor([0.2, 0.3]).view(2, 1, 1)
    raw = RawInputs("image", torch.uint8, (2, 6, 7), (1, 2, 3, 4), scale, shift)
    path = tmp_path / "student.onnx"
    onnx_form.to_onnx(student, torch.rand(2, 2, 3, 4), path)
    take_raw(path, raw)
    pixels = torch.randint(0, 256, (3, 2, 6, 7), dtype=torch.uint8)
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"image": pixels.numpy()})
    cut = pixels[:, :, 1:4, 2:6].float() / 255
    mean, deviation = torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3])
    with torch.no_grad():
        expected = student((cut - mean.view(2, 1, 1)) / deviation.view(2, 1, 1))
        torch.testing.assert_close(RawStudent(student, raw)(pixels), expected)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


def test_int8_holds_eight_bit_weights(run):
    import onnx

    model = onnx.load(run[0] / "export" / "student.int8.onnx")
    kinds = {t.data_type for t in model.graph.initializer if len(t.dims) == 2}
    assert kinds == {onnx.TensorProto.INT8}
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


def test_the_ranges_of_int8_are_of_all_classes(tiny):
    """A sorted folder's first 512 rows are of one class."""
    parts = Parts(plain(tiny("loss=ce")))
    data = parts.data
    order = data.train.labels.argsort(stable=True)
    data.train = data.train.part(order)
    seen = torch.cat(list(_calibration(data)))
    assert len(seen) == NUM_CALIBRATION < len(order)
    index = torch.arange(len(order))
    split = data.train.take(index)
    rows = data.prepare(Batch(split.inputs, split.labels, index)).inputs
    places = (seen[:, None] == rows[None]).flatten(2).all(2).float().argmax(1)
    counts = torch.bincount(data.train.labels[places], minlength=10)
    shares = torch.bincount(data.train.labels, minlength=10) * len(seen) / len(order)
    assert (counts - shares).abs().max() <= 2


def test_a_difference_above_the_tolerance_fails(run):
    _, code = run
    assert code == 1
    form = Form(1, {}, 1.0, 1.0, 0.01)
    found = Export(run[0], {"onnx": form, "int8": form}, tolerance=1e-3)
    assert len(found.problems) == 1  # int8 is another function, and not held to it
    assert (
        "onnx differs from the module by 0.01, more than the tolerance 0.001" in found.problems[0]
    )
    broken = Form(1, {}, 1.0, 1.0, float("nan"))
    assert Export(run[0], {"onnx": broken}, 1e-3).problems


def test_exported_costs_are_columns_of_the_report(run):
    folder, _ = run
    sweep = write_report(folder.parent).sweep
    exported = json.loads((folder / "export.json").read_text())
    assert {"int8_bytes", "onnx_latency_ms", "int8_test_accuracy"} <= set(sweep.value_names)
    (done,) = [trial for trial in sweep.trials if trial.state == "completed"]
    assert done.mean("int8_bytes") == exported["costs"]["int8_bytes"]
    assert read_record(folder).value("int8_bytes") is None  # the record itself is left alone


def test_an_export_is_tracked_with_its_files(run):
    ((config, directory, files, values),) = TRACKED
    assert (config["tracking"]["mode"], directory) == ("disabled", run[0])
    assert [file.name for file in files] == ["student.onnx", "student.int8.onnx"]
    assert values["int8_bytes"] == files[1].stat().st_size


def test_text_students_have_a_dynamic_length(tmp_path):
    student = BagOfEmbeddings(3, 50, 8).eval()

    def tokens(size, length):
        ids = torch.arange(size * length).view(size, length) % 50
        return {"input_ids": ids, "attention_mask": (ids % 7 > 0).long()}

    onnx_form.to_onnx(student, tokens(2, 5), tmp_path / "student.onnx")
    exported = onnx_form.OnnxStudent(tmp_path / "student.onnx")
    names = [each.name for each in exported._session.get_inputs()]
    assert names == ["input_ids", "attention_mask"]
    for size, length in ((1, 3), (4, 9)):
        inputs = tokens(size, length)
        with torch.no_grad():
            torch.testing.assert_close(exported(**inputs), student(**inputs))


def test_a_language_model_takes_token_ids_of_any_length(tmp_path):
    student = GPT(vocab_size=20, context=12, depth=1, width=8, heads=2).eval()
    onnx_form.to_onnx(student, {"input_ids": torch.arange(10).view(2, 5)}, tmp_path / "s.onnx")
    exported = onnx_form.OnnxStudent(tmp_path / "s.onnx")
    for size, length in ((1, 3), (3, 9)):
        tokens = torch.arange(size * length).view(size, length) % 20
        found, expected = exported(input_ids=tokens), student(tokens)
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_a_student_with_a_soft_prompt_takes_batches_of_any_size(kind, tmp_path):
    peft = pytest.importorskip("peft", reason="the extra adapters is not installed")
    torch.manual_seed(0)
    tokens = {"input_ids": torch.arange(10).view(2, 5)}
    base = GPT(vocab_size=20, context=16, depth=1, width=8, heads=2).eval()
    student = adapt(base, getattr(peft, kind)(num_virtual_tokens=4), tokens, lambda _: ()).eval()
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    onnx_form.to_onnx(student, tokens, tmp_path / "s.onnx")
    exported = onnx_form.OnnxStudent(tmp_path / "s.onnx")
    for size, length in ((1, 3), (3, 9)):
        tokens = torch.arange(size * length).view(size, length) % 20
        found, expected = exported(input_ids=tokens), student(tokens)
        torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=0)


class OfOneSize(torch.nn.Module):
    def forward(self, inputs):
        return inputs * torch.arange(len(inputs)).unsqueeze(1)


def test_a_student_of_one_size_of_batch_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"OfOneSize .* the size of the batch a constant \(of fe"):
        onnx_form.to_onnx(OfOneSize().eval(), torch.ones(2, 5), tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_export_is_told(tmp_path):
    inputs = {
        "input_ids": torch.ones(2, 5, dtype=torch.long),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
    }
    with pytest.raises(ValueError, match="BiLSTM cannot be exported: "):
        onnx_form.to_onnx(BiLSTM(3, 50, 8).eval(), inputs, tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_weights_there_is_one_message(run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((run[0] / "config.yaml").read_text())
    assert main([str(tmp_path)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err


@pytest.mark.skipif(not executorch_form.is_installed(), reason="needs kd_research[executorch]")
@pytest.mark.filterwarnings("ignore")  # ExecuTorch's, that it is experimental
def test_a_program_for_phones(tmp_path):
    settings = {"_target_": "kd_research.models.cnn.CNN", "width": 4, "depth": 1}
    student = instantiate({**settings, "input_shape": [1, 8, 8], "num_classes": 10}).eval()
    executorch_form.to_executorch(student, torch.randn(2, 1, 8, 8), tmp_path / "student.pte")
    exported = executorch_form.ExecutorchStudent(tmp_path / "student.pte", ())
    for size in (1, 5):
        inputs = torch.randn(size, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(exported(inputs), student(inputs), rtol=0, atol=1e-4)

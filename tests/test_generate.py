"""`kd generate`: what student and teacher of a run's folder write, and what is wrong with one."""

import json
import re
import shutil

import pytest
import torch
from language_folder import language_run

from kd_research.configuration.config import load, save
from kd_research.generate import main
from kd_research.generation.decode import generate
from kd_research.generation.settings import GenerationConfig
from kd_research.trial.language_run import open_language_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return language_run(tmp_path_factory.mktemp("language"))


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copied")


def texts(printed: str, name: str) -> list[str]:
    return re.findall(rf"^{name:9}(.*(?:\n {{9}}.*)*)", printed, flags=re.MULTILINE)


def test_both_write_the_same_again_whatever_stands_beside(run, capsys):
    asked = ["--prompt", "the cat", "--prompt", "a", "--max-new-tokens", "8", "--seed", "3"]
    assert main([str(run), *asked]) == 0
    first = capsys.readouterr().out
    assert texts(first, "prompt") == ["the cat", "a"]
    student, teacher = texts(first, "student"), texts(first, "teacher")
    assert [len(text) for text in student + teacher] == [8] * 4
    assert student != teacher
    assert re.search(r"^student: 16 tokens in .* tokens a second$", first, re.MULTILINE)
    assert main([str(run), *asked[:2], *asked[4:]]) == 0
    assert texts(capsys.readouterr().out, "student") == student[:1]
    assert main([str(run), *asked[:-1], "4"]) == 0
    assert texts(capsys.readouterr().out, "student") != student


def test_greedy_prompts_of_a_file_are_what_the_weights_say(run, tmp_path, capsys):
    (tmp_path / "prompts").write_text("the do\nmat\n")
    assert main([str(run), "--prompts", str(tmp_path / "prompts"), "--temperature", "0"]) == 0
    printed = capsys.readouterr().out
    opened = open_language_run(run)
    for model, name in ((opened.student, "student"), (opened.teacher, "teacher")):
        for prompt, text in zip(("the do", "mat"), texts(printed, name), strict=True):
            ids = opened.tokens.encode([prompt + text])[0]
            logits = model(torch.tensor([ids[:-1]]))
            start = len(prompt)
            assert len(text) == 16 - 6 + 1  # the room after the longest prompt
            assert logits[0, start - 1 :].argmax(1).tolist() == ids[start:]


def test_where_the_teacher_is_gone_the_student_writes_alone(run, copied, capsys):
    record = json.loads((copied / "record.json").read_text())
    path = record["provenance"]["teacher_path"]
    record["provenance"]["teacher_path"] = "/nowhere/weights.pt"
    (copied / "record.json").write_text(json.dumps(record))
    assert main([str(copied), "--prompt", "the", "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert len(texts(printed, "student")) == 1
    assert not texts(printed, "teacher")
    assert "the student's text alone: the teacher's weights are gone (/nowhere" in printed
    record["provenance"] |= {"teacher_path": path, "teacher_fingerprint": "another"}
    (copied / "record.json").write_text(json.dumps(record))
    assert "holds other weights than" in open_language_run(copied).no_teacher


def test_a_run_whose_data_and_first_weights_are_gone_still_writes(run, copied, capsys):
    asked = ["--prompt", "the cat", "--max-new-tokens", "8"]
    assert main([str(run), *asked]) == 0
    printed = capsys.readouterr().out
    config = load(copied / "config.yaml")
    config.dataset.root = "/nowhere"
    config.student.checkpoint = config.teacher.checkpoint = "/nowhere/weights.pt"
    save(config, copied / "config.yaml")
    assert main([str(copied), *asked]) == 0
    again = capsys.readouterr().out
    for name in ("student", "teacher"):
        assert texts(again, name) == texts(printed, name) != []
    (copied / "tokenizer.json").unlink()
    assert main([str(copied), *asked]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_a_teacher_with_a_tokenizer_of_its_own_writes_in_its_own_tokens(tmp_path, capsys):
    own = "++teacher.dataset={tokens: bpe, vocab_size: 280, context: 16}"
    run = language_run(tmp_path, own, "teacher.model.vocab_size=280", loss="uld")
    asked = ["--prompt", "the cat", "--max-new-tokens", "6", "--temperature", "0"]
    assert main([str(run), *asked]) == 0
    printed = capsys.readouterr().out
    opened = open_language_run(run)
    ids = opened.teacher_tokens.encode(["the cat"])
    assert len(ids[0]) < len("the cat")
    made = generate(opened.teacher, torch.tensor(ids), GenerationConfig(6, 0.0), seed=0)
    text = opened.teacher_tokens.tokenizer.decode(made.tokens[0].tolist())
    assert texts(printed, "teacher") == [text]
    assert len(texts(printed, "student")[0]) == 6
    assert "the teacher has a tokenizer of its own" in printed


def test_an_empty_line_of_a_file_of_prompts_is_named(run, tmp_path, capsys):
    (tmp_path / "prompts").write_text("the\n\ncat\n\n")
    assert main([str(run), "--prompts", str(tmp_path / "prompts")]) == 2
    printed = capsys.readouterr()
    place = tmp_path / "prompts"
    assert f"line 2 of {place}, line 4 of {place} are empty" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt", "cat @ [1]"], "characters that the run's vocabulary has not: '1', '@', '['"),
        (["--prompt", "the cat sat on the mat"], "a prompt of 22 tokens"),
        (["--prompt", "the cat", "--max-new-tokens", "11"], "context of 16 tokens; try"),
        (["--prompt", "the", "--prompt", ""], "prompt 2 is empty"),
        ([], "there is no prompt; type --prompt TEXT"),
        (["--prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--prompt", "a", "--top-p", "2", "--temperature", "-1"], r"(?s)temperature.*\n.*top_p"),
    ],
)
def test_a_wrong_prompt_is_told(run, arguments, told, capsys):
    assert main([str(run), *arguments]) == 2
    printed = capsys.readouterr()
    assert re.search(re.escape(told) if "(?s)" not in told else told, printed.err)
    assert printed.out == ""


def test_a_folder_that_is_no_finished_language_run_is_told(run, copied, tiny, tmp_path, capsys):
    asked = ["--prompt", "the"]
    assert main([str(tmp_path / "nowhere"), *asked]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([str(tmp_path), *asked]) == 2
    assert "a run's folder holds a composed config" in capsys.readouterr().err
    (copied / "weights.pt").unlink()
    assert main([str(copied), *asked]) == 2
    assert "it has no weights.pt: its run failed or has not ended" in capsys.readouterr().err
    images = tmp_path / "images"
    save(tiny(), images / "config.yaml")
    assert main([str(images), *asked]) == 2
    assert "no run of a language model: its data set is digits" in capsys.readouterr().err


def test_of_a_trial_with_several_seeds_the_first_writes(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "trial" / "seed-0")
    assert main([str(tmp_path / "trial"), "--prompt", "the", "--max-new-tokens", "3"]) == 0
    assert len(texts(capsys.readouterr().out, "student")) == 1

"""The models of a finished language run, for who writes with them: from its folder alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from torch import nn

from kd_research.configuration import config as configs
from kd_research.configuration.config import ConfigError
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits
from kd_research.data.text import TOKENIZER_NAME
from kd_research.records.record import CONFIG_NAME, read_record
from kd_research.teacher import train as teachers
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights
from kd_research.teacher.stated import own_dataset, to_vocabulary
from kd_research.training.distill import freeze
from kd_research.trial.parts import make, make_data, make_student, with_adapter
from kd_research.trial.texts import stop_of

log = logging.getLogger(__name__)
STARTS = ("student.checkpoint", "teacher.checkpoint")  # the weights are in the run's folder


@dataclass(frozen=True)
class Tokens:
    """What a model reads and writes.

    Attributes:
        tokenizer: makes them of text.
        stop: the id of the token that ends a text; None: there is none.
        are_characters: whether its vocabulary is of characters, and may lack some.
    """

    tokenizer: Tokenizer
    stop: int | None
    are_characters: bool

    def encode(self, prompts: list[str], names: list[str] | None = None) -> list[list[int]]:
        """The token ids of each prompt; an empty one is the end of text, after which one begins.

        Args:
            prompts: texts.
            names: what an error calls each; None: "prompt 1" and so on.

        Raises:
            ValueError: a character that a vocabulary of characters has not, or an empty prompt
                where there is no end of text.
        """
        if self.are_characters:
            known = set(self.tokenizer.get_vocab())
            if unknown := sorted(set("".join(prompts)) - known):
                raise ValueError(
                    f"the prompt has characters that the run's vocabulary has not: "
                    f"{', '.join(map(repr, unknown[:10]))}; it has "
                    f"{''.join(sorted(each for each in known if len(each) == 1))!r}"
                )
        start = [] if self.stop is None else [self.stop]
        found = [
            encoding.ids or start
            for encoding in self.tokenizer.encode_batch(prompts, add_special_tokens=False)
        ]
        names = names or [f"prompt {place + 1}" for place in range(len(prompts))]
        if empty := [name for name, ids in zip(names, found, strict=True) if not ids]:
            raise ValueError(
                f"{', '.join(empty[:10])} {'is' if len(empty) == 1 else 'are'} empty, and this "
                "run's texts have no end after which one could begin; give at least one character"
            )
        return found


@dataclass(frozen=True)
class LanguageRun:
    """What a finished run left.

    Attributes:
        config: its resolved configuration.
        data: its data set.
        tokens: the student's.
        student: with the run's weights, in eval mode.
        teacher: as the run had it, frozen; None where there is none any more.
        teacher_tokens: `tokens`, unless `teacher.dataset` has another tokenizer.
        no_teacher: why there is none.
    """

    config: dict[str, Any]
    data: DataModule
    tokens: Tokens
    student: nn.Module
    teacher: nn.Module | None
    teacher_tokens: Tokens
    no_teacher: str | None


def open_language_run(directory: Path, device: torch.device | None = None) -> LanguageRun:
    """Build student and teacher of the run in a folder; nothing is trained.

    Where its data set is gone, the tokenizer in the folder says what the tokens are. The weights
    from which student and teacher began need not be there any more.

    Args:
        directory: the run's folder: config.yaml and weights.pt, and its record for the teacher.
        device: where the models go; None: a GPU, if the run may use one.

    Raises:
        ConfigError: there is no run, or it cannot be built any more.
        ValueError: it is no run of a language model, or it has no weights.
    """
    if not directory.is_dir():
        raise ValueError(f"there is no folder {directory}; give the folder of a run")
    config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        configs.load(directory / CONFIG_NAME, without=STARTS), resolve=True
    )
    torch.set_num_threads(config["num_threads"])
    data = _data(config, directory)
    if data.tokenizer is None or data.train.labels.ndim != 2:
        raise ValueError(
            f"it is no run of a language model: its data set is {data.name}; "
            "text is written by runs on dataset=tinyshakespeare and its like"
        )
    if not (directory / WEIGHTS_NAME).exists():
        raise ValueError(
            f"it has no {WEIGHTS_NAME}: its run failed or has not ended; "
            "see its record.json, and run it with kd trial"
        )
    student = with_adapter(config, data, make_student(config, data))
    load_weights(student, directory / WEIGHTS_NAME)
    tokens = _tokens(config["dataset"], data)
    own_data, teacher_tokens = data, tokens
    if config["teacher"].get("dataset"):
        own = own_dataset(config)
        own_data = make("teacher.dataset", lambda: instantiate(own, seed=config["seed"]))
        if own_data.tokenizer and own_data.tokenizer.to_str() != data.tokenizer.to_str():
            teacher_tokens = _tokens(own, own_data)
    teacher, why = _teacher(config, own_data, directory)
    if device is None:
        use_gpu = torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu"
        device = torch.device("cuda" if use_gpu else "cpu")
    return LanguageRun(
        config,
        data,
        tokens,
        student.to(device).eval(),
        None if teacher is None else teacher.to(device),
        teacher_tokens,
        why,
    )


def _data(config: dict[str, Any], directory: Path) -> DataModule:
    """The run's data set; where it is gone, windows of nothing with the run's own tokenizer."""
    path = directory / TOKENIZER_NAME
    try:
        return make_data(config)
    except ConfigError as error:
        adapter = config["student"].get("adapter") or {}
        if not path.exists() or str(adapter.get("_target_")).endswith(".FewShot"):
            raise  # examples are drawn from the data
        log.warning("%s; its tokens are read from %s", error, path)
    dataset = config["dataset"]
    ids = torch.zeros(2, dataset["context"], dtype=torch.int32)
    part = Split({"input_ids": ids}, ids)
    splits = Splits(part, part, part, content="gone", tokenizer=Tokenizer.from_file(str(path)))
    settings = {key: dataset[key] for key in ("name", "num_classes", "batch_size", "split_seed")}
    return DataModule(
        source=lambda: splits,
        val_fraction=0.1,
        test_fraction=0.1,
        seed=config["seed"],
        **settings,
    )


def _tokens(dataset: Mapping[str, Any], data: DataModule) -> Tokens:
    assert data.tokenizer is not None
    are_characters = dataset.get("tokens") == "char"
    return Tokens(data.tokenizer, stop_of({"dataset": dataset}, data), are_characters)


def _teacher(
    config: dict[str, Any], data: DataModule, directory: Path
) -> tuple[nn.Module | None, str | None]:
    """The run's teacher, loaded and never trained; or why there is none.

    Args:
        config: resolved.
        data: in the teacher's own tokens.
        directory: the run's.
    """
    recipe = config["teacher"]
    if not recipe["model"]:
        return None, "the run had no teacher"
    if recipe.get("members"):
        return None, "the teacher is the mean of several models"
    try:
        known = read_record(directory).provenance
    except (FileNotFoundError, ValueError):
        return None, "the run has no record, which says where its teacher is"
    path = known.get("teacher_path")
    if path is None or not Path(path).exists():
        return None, f"the teacher's weights are gone ({path})"
    assistants = list((recipe.get("assistants") or {}).values())
    module: nn.Module = instantiate(assistants[-1] if assistants else recipe["model"])
    try:
        to_vocabulary("teacher", module, data)
        load_weights(module, Path(path))
    except ValueError as error:
        return None, f"the teacher cannot be loaded ({error})"
    if teachers.fingerprint(module) != known.get("teacher_fingerprint"):
        return None, f"{path} holds other weights than the run's teacher had"
    return freeze(module), None

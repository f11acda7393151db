"""What a run is made of, built and checked against each other before the student is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from kd_research.configuration.config import ConfigError
from kd_research.evaluation import positions
from kd_research.evaluation.quality import Evaluation, evaluate, predict, scores
from kd_research.evaluation.shared_costs import Measured, SharedCosts
from kd_research.evaluation.texts import OFF, evaluate_texts, refuse_without_prompts
from kd_research.interfaces import Batch, Inputs, some
from kd_research.models.capture import Capture
from kd_research.models.checkpointing import checkpoint_blocks
from kd_research.soft_targets.fill import (
    cache,
    check_draws,
    evaluation_logits,
    evaluation_store,
    fill,
    fill_split,
)
from kd_research.soft_targets.teacher_text import TeacherText
from kd_research.teacher import chain, stated
from kd_research.teacher import train as teachers
from kd_research.teacher.inheritance import inherit
from kd_research.teacher.other_tokenizer import (
    ReadsText,
    other_tokenizer,
    refuse_other_tokenizer,
)
from kd_research.training.distill import Distiller
from kd_research.training.groups import check_paths
from kd_research.training.memory import keep_freed
from kd_research.training.on_policy import StudentText
from kd_research.transfer.replace import without_examples
from kd_research.trial import known_once
from kd_research.trial.parts import (
    make,
    make_data,
    make_distiller,
    make_schedule,
    make_student,
    maker_of,
    tell_random_base,
    with_adapter,
)
from kd_research.trial.texts import check_writers, stated_text, stop_of

CPU = torch.device("cpu")


class Parts:
    """Data, teacher, student and the module that distils one into the other.

    Building is where torch first meets the configuration: what does not fit together raises
    ConfigError here, naming the part. It is also where the teacher is trained, if it has to be.

    Args:
        config: the resolved configuration, plain containers.
        device: where the teacher is left, and works before the fit; the student stays on the CPU.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device = CPU):
        self.config, self.device = config, device
        torch.set_num_threads(config["num_threads"])
        keep_freed()
        self.data = make_data(config)
        texts = config.get("text_evaluation") or OFF
        make("text_evaluation", lambda: refuse_without_prompts(self.data, texts))
        # what is wrong is told before a teacher is trained
        student = with_adapter(config, self.data, self._make_student())
        make("optimizer", lambda: check_paths(stated.optimizer_of(config["optimizer"])[1], student))
        make("scheduler", lambda: make_schedule(config))
        self._text = make("loss", lambda: stated_text(config, self.data))
        maker = make("transfer", lambda: maker_of(config, self.data))
        self.teacher: teachers.Teacher | None = None
        if config["teacher"]["model"]:
            tried = partial(make, "loss", lambda: self._try_out(student))
            obtained = make("teacher", lambda: chain.obtain(config, self.data, tried))
            self.teacher = make("teacher", lambda: other_tokenizer(config, self.data, obtained))
        if maker and self.teacher:
            given = (config, maker, self.data, self.teacher, self.device)
            self.data = make("transfer", lambda: without_examples(*given))
        start = make("student.pretraining", lambda: chain.pretrained(config))
        seed_everything(config["seed"], verbose=False)
        self.student = self._make_student()
        if start is not None:
            self.student.load_state_dict(start.module.state_dict())
        make("student.from_teacher", self._inherit)
        self.student = with_adapter(config, self.data, self.student)
        tell_random_base(config)
        if config["student"].get("gradient_checkpointing"):
            make("student.gradient_checkpointing", lambda: checkpoint_blocks(self.student))
        if config["channels_last"]:
            self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._costs: dict[str, float] = {}
        self._logits: dict[str, Tensor] = {}  # the teacher's, of a whole split
        self.module: Distiller = make("loss", self._assemble)
        if config["compile"]:
            self.student.compile()

    def text_costs(self) -> dict[str, float]:
        """What the text that the loss trains on cost to draw; nothing where none is drawn."""
        return self.module.text.costs() if self.module.text else self._costs

    @property
    def _reads(self) -> bool:
        """Whether the teacher reads the data's text in tokens of its own."""
        return self.teacher is not None and isinstance(self.teacher.module, ReadsText)

    @property
    def writer(self) -> nn.Module | None:
        """The teacher, if it says the data's own tokens."""
        return self.teacher.module if self.teacher and not self._reads else None

    @property
    def trains(self) -> bool:
        """Whether the student is trained; else it is evaluated as it is."""
        return bool(self.config["trainer"]["max_epochs"])

    def _make_student(self) -> nn.Module:
        return make_student(self.config, self.data)

    def _distiller(self, student: nn.Module, teacher: nn.Module | None, batch: Batch) -> Distiller:
        return make_distiller(self.config, student, teacher, batch, len(self.data.train))

    def _inherit(self) -> None:
        """Start the student from its teacher's weights, where that is asked for."""
        asked = self.config["student"].get("from_teacher")
        if not asked:
            return
        if self.teacher is None:
            raise ValueError("there is no teacher; type teacher=NAME, or student.from_teacher=null")
        inputs = self.batch_on(self.device, self.data.batch_size).inputs
        inherit(self.student, self.teacher.module.to(self.device), inputs, **asked)

    def _try_out(self, student: nn.Module) -> None:
        """Put the loss on untrained nets, so that no teacher is trained for a mistake in it."""
        if self.data.tokenizer is not None and self.config["teacher"].get("dataset"):
            return  # a teacher of another tokenizer reads text, by what comes around it
        with torch.random.fork_rng(devices=[]):
            teacher, example = (
                chain.stand_in(self.config, self.data),
                teachers.build_batch(self.data),
            )
            make_distiller(self.config, student, teacher, example, len(self.data.train))

    def _assemble(self) -> Distiller:
        if self.teacher:
            refuse_other_tokenizer(self.config["loss"], self.teacher.module)
            if isinstance(self._text, TeacherText):
                self._write(self._text, self.teacher)
        example = teachers.build_batch(self.data)
        teacher = self.teacher.module if self.teacher else None
        module = self._distiller(self.student, teacher, example)
        if self.teacher:
            self.teacher.module.to(self.device)
        self.data.views = self.config["soft_targets"]["views"]
        asked, terms = module.objective.needs_teacher, module.objective.terms
        weighed = len(terms) == len(self.config["loss"]["terms"])  # no term has a weight of 0
        if isinstance(self._text, StudentText) and (asked or weighed):
            judge = self.teacher.module if self.teacher and asked else None
            check_writers(self._text, self.config, example, self.student, judge)
            module.text = self._text
        if self.teacher and module.teacher_shapes and module.text is None and not self._reads:
            module.cached = cache(self.config, self.data, self.teacher.key, module.teacher_shapes)
            check_draws(module.cached, module.objective.terms)
        if module.cached:
            to_fill = partial(fill, module.cached, self.data, module.run_teacher)
            if self.config["soft_targets"]["fill"] == "ahead" and self.trains:
                to_fill(self.device, range(module.cached.num_views))
            module.fill = to_fill
        return module

    def _write(self, text: TeacherText, teacher: teachers.Teacher) -> None:
        """Put the teacher's text in place of the training split."""
        root = Path(self.config["output_dir"]) / "teacher_text"
        stop = stop_of(self.config, self.data)
        net = teacher.module.to(self.device)
        self.data = text.instead(self.data, net, teacher.key, stop, root)
        self._costs = text.costs()

    def example(self, size: int) -> Batch:
        """The first `size` training examples, prepared, on the CPU."""
        return teachers.example_batch(self.data, size)

    def examples_on(self, device: torch.device) -> Callable[[int], Inputs]:
        """Gives, of a size, that many prepared training examples: what costs are measured on."""
        return lambda size: self.batch_on(device, size).inputs

    def shared_costs(self, device: torch.device, since: float = 0.0) -> SharedCosts:
        """What gives the costs of student and teacher, which are on the device."""
        example = self.examples_on(device)
        return known_once.shared_costs(self.config, self.student, self.teacher, example, since)

    def shared_step_bytes(self, device: torch.device) -> Measured:
        """What a training step takes on the device, where the module is; call it after the fit."""
        batch = self.batch_on(device, self.data.batch_size)
        return known_once.shared_step_bytes(
            self.config, self.data, self.module, self.teacher, batch
        )

    def batch_on(self, device: torch.device, size: int) -> Batch:
        """The first `size` training examples, prepared, on the device."""
        example = self.example(size)
        inputs = example.inputs
        if isinstance(inputs, dict):
            inputs = {name: value.to(device) for name, value in inputs.items()}
        else:
            inputs = inputs.to(device)
        return Batch(inputs, example.labels.to(device), example.index.to(device))

    def teacher_logits(self, split_name: str) -> Tensor:
        """The teacher's logits, (N, C) on the CPU, for "val" or "test": asked for once."""
        assert self.teacher is not None
        teacher, split = self.teacher.module, getattr(self.data, split_name)
        if split_name not in self._logits:
            self._logits[split_name] = evaluation_logits(
                self.config,
                self.data,
                self.teacher.key,
                split_name,
                lambda rows: predict(
                    teacher, self.data, split if len(rows) == len(split) else split.part(rows)
                ),
            )
        return self._logits[split_name]

    def evaluate(self) -> Evaluation:
        """What the fitted student is worth; student and teacher are where they are to work."""
        read_test = self.config["read_test"]
        if not self.data.has_positions:
            logits = self.teacher_logits if self.teacher else None
            return evaluate(self.student, logits, self.data, read_test)
        found = self.evaluate_positions(self.student)
        if self.teacher and isinstance(self.teacher.module, ReadsText):
            known = (self.config, self.teacher, self.teacher.module)
            found.metrics.update(known_once.metrics_of_reader(*known))
        self.add_texts(found, self.student)
        return found

    def add_texts(self, found: Evaluation, net: nn.Module) -> None:
        """What a net writes that takes the student's place, where texts are evaluated."""
        how, read_test = self.config.get("text_evaluation") or OFF, self.config["read_test"]
        stop, seed = stop_of(self.config, self.data), self.config["seed"]
        known = partial(known_once.of_teacher, self.config, self.teacher, self.data)
        evaluate_texts(found, net, self.writer, self.data, how, stop, seed, read_test, known)

    def evaluate_positions(self, net: nn.Module) -> Evaluation:
        """What a net is worth that takes the student's place, where the data have positions."""
        teach = self._teach if self.writer else None
        return positions.evaluate_positions(net, teach, self.data, self.config["read_test"])

    def _teach(self, split_name: str) -> positions.Teach:
        """Gives the teacher's logits for batches of "val" or "test": cached, where they fit."""
        assert self.teacher is not None
        run, num = Capture(self.teacher.module), getattr(self.data, split_name).labels[0].numel()
        cached = None
        if getattr(self.data, split_name).labels.ndim == 2:
            cached = evaluation_store(self.config, self.data, self.teacher.key, split_name, num)
        if cached is None:
            return lambda batch: run(batch.inputs).logits
        store, device = cached, next(self.teacher.module.parameters()).device
        fill_split(store, self.data, getattr(self.data, split_name), run, device)
        return lambda batch: (
            store.outputs(batch.index, lambda rows: run(some(batch.inputs, rows))).logits
        )

    def teacher_accuracy(self) -> float:
        """The teacher's accuracy on validation.

        Raises:
            ConfigError: it is below the configured floor.
        """
        assert self.teacher is not None
        if self.data.has_positions:
            known = (self.config, self.teacher, self.data, self.device)
            accuracy = known_once.text_accuracy(*known, lambda: self._teach("val"))
        else:
            accuracy = scores(self.teacher_logits("val"), self.data.val.labels)["accuracy"]
        least = self.config["teacher"]["min_accuracy"]
        if accuracy < least:
            raise ConfigError(
                [
                    f"teacher: its validation accuracy is {accuracy:.4f}, below "
                    f"teacher.min_accuracy={least}; train it longer (teacher.trainer.max_epochs), "
                    "check teacher.checkpoint, or lower the floor"
                ]
            )
        return accuracy

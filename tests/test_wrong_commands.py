"""Wrong commands: each is told in lines that say what to type, before a folder is made."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import warm
from hydra import compose, initialize_config_dir

from kd_research import run
from kd_research.configuration.config import ROOT
from kd_research.configuration.overrides import as_whole, explain
from kd_research.configuration.trainer_checks import GPU_FILES

HAS_GPU = any(Path(path).exists() for path in GPU_FILES)
HUB = "dataset=hub dataset.num_classes=3 dataset.input_shape=[3,8,8]"
TEXT = "dataset=tinyshakespeare dataset.root=HERE teacher=gpt student=gpt"
# What is typed, by words; HERE is the test's own folder. What is told must be in the lines.
TYPOS = [
    ("loss.temprature=3", "did you mean loss.temperature?"),
    ("studnt=mlp", "unknown key studnt; did you mean student?"),
    ("loss=kdd", "did you mean loss=kd? choices: "),
    ("teacher=mpl", "did you mean teacher=mlp?"),
    ("student.model.wdth=3", "did you mean student.model.width?"),
    ("dataset=cifar", "did you mean dataset=cifar"),
    ("optimizer=adam", "did you mean optimizer=adamw?"),
    ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
    ("+trainer.max_epoch=3", "is no option of Lightning's Trainer; did you mean trainer.max_ep"),
    ("tracking=of", "there is no tracking 'of'"),
    ("-m sampler=tpee", "did you mean sampler=tpe?"),
    ("-m +sweeps=papers/crd", "did you mean +sweeps=papers/crd_"),
    ("-m sweep.n_trial=3", "did you mean sweep.n_trials?"),
    ("-m student.model.widht=4,8", "did you mean student.model.width?"),
    ("-m sweep.n_trials=1,2", "sweep.n_trials=1,2: it is one for all trials; give it one value"),
    ("-m output_dir=HERE/a,HERE/b", "/b: it is one for all trials; give it one value"),
    ("-m tracking=csv,disabled", "tracking=csv,disabled: it is one for all trials; give it one"),
    ("+sweeps=what_distillation_buys", "is a sweep; type -m +sweeps=what_distillation_buys"),
    ("-m loss=kd,dkdd", "did you mean loss=dkd?"),
    ("-m --cfg job", "-m and --cfg job exclude each other; type --cfg job alone"),
    ("--experimental-rerun NAME", "there is no file NAME; type the config.pickle of a run"),
    ("--shell-completion", "type --shell-completion install=bash (or uninstall, query)"),
    ("--resolve", "--resolve is of --cfg; type --cfg job --resolve"),
    ("output_dir=", "output_dir is empty, which would be the folder here; type output_dir=FOLDER"),
    ("-m hydra.sweep.dir=''", "hydra.sweep.dir is empty, which would be the folder here; type"),
    ("hydra.run.dir=null", "hydra.run.dir is empty, which would be the folder here; type hydra"),
    ("hydra.run.dir=${nothing}", "hydra.run.dir: Interpolation key 'nothing' not found"),
    ("output_dir=${nothing}", "output_dir: Interpolation key 'nothing' not found"),
    (
        "teacher=run teacher.run=",
        "teacher.run is empty, which would be the folder here; type teach",
    ),
    ("teacher=run teacher.run=3", "teacher.run=3 is no run's folder; looked for config.yaml in 3"),
    ("-m teacher=run teacher.run=null,3", "in the search space: teacher.run=3 is no run's folder"),
    ("~teacher", "the configuration lacks teacher; compose it by kd_research.run"),
    ("--cfg hydra --resolve", "Hydra's part refers to the rest; type --cfg all --resolve"),
    ("--cfg job --resolve teacher=run teacher.run=nil", "teacher.run=nil is no run's folder; lo"),
    ("loss.temperature=${nothing}", "loss.temperature: Interpolation key 'nothing' not found"),
    (
        "dataset=mnist dataset.splits.train=x",
        "is empty, and has no such key; +dataset.splits.train=",
    ),
    ("optimizer=3", "there is no optimizer '3'; choices: "),
    ("tracking=true", "there is no tracking 'True'; choices: "),
    ("teacher=null", "there is no teacher null; did you mean teacher=none?"),
    ("+dataset.splits.train=train[:100]", "type \"+dataset.splits.train='train[:100]'\", all"),
    (
        "+student.veiw={size:[4,4]}",
        "adds a key that nothing reads; did you mean student.view? type",
    ),
    (
        "+transfr=generator",
        "+transfr adds a key that nothing reads; did you mean transfer? type tra",
    ),
    (
        "loss=dkd +loss.student_temperature=2",
        "(here dkd) is set by +loss.terms.NAME.loss.student_temperatu",
    ),
    (
        "teacher=run teacher.run=/nowhere teacher.model.width=4",
        "unknown key teacher.model.width; did",
    ),
    (
        "loss=ab loss.stages=[]",
        "loss.stages is a mapping of settings, got []; type loss.stages.SET",
    ),
    ("-m sweep.space.student.model.width=range(4,8)", "type student.model.width=range(4,8)"),
    ("teacher=none loss=ce teacher.seed=3", "teacher.seed: not read, as there is no teacher"),
]
TYPES = [
    (
        "dataset.source=digits",
        "dataset.source is a mapping of settings, got 'digits'; type dataset",
    ),
    ("dataset.augment=crop", "dataset.augment is a mapping of settings, got 'crop'"),
    ("teacher.dataset=mnist", "teacher.dataset is a mapping of settings, got 'mnist'"),
    ("student.adapter=lora", "got 'lora'; type adapter@student.adapter=NAME"),
    ("soft_targets=false", "soft_targets is a mapping of settings, got False"),
    ("-m loss.terms=kd", "loss.terms must be a mapping of names to terms, got 'kd'; try loss=kd"),
    ("-m loss.terms.kd=3", "loss.terms.kd must have a loss and a weight, got 3"),
    ("loss.temperature=hot", "loss.temperature must be > 0, got 'hot'; try loss.temperature=4"),
    ("loss.lambda=abc", "loss.lambda must be from 0 to 1, got 'abc'; try loss.lambda=0.9"),
    ("trainer.max_epochs=2.5", "must be a whole number >= 0, got 2.5; try trainer.max_epochs=2"),
    ("trainer.max_epochs=abc", "must be a whole number >= 0, got 'abc'; try trainer.max_epochs"),
    ("seed=abc", "seed must be a whole number from 0 to 4294967295, got 'abc'; try seed=0"),
    ("dataset.batch_size=big", "dataset.batch_size must be a whole number >= 1, got 'big'"),
    ("optimizer.lr=fast", "optimizer.lr must be > 0, got 'fast'; try optimizer.lr=0.001"),
    ("student.model.width=wide", "student.model.width must be a whole number >= 1, got 'wide'"),
    ("soft_targets.fill=never", "must be lazy or ahead, got 'never'; try soft_targets.fill=lazy"),
    ("soft_targets.dtype=int8", "try soft_targets.dtype=float32"),
    ("++dataset.augment.crop=2.5", "must be a whole number of pixels >= 0, got 2.5; try dataset."),
    ("++dataset.augment.mixup=abc", "must be a number >= 0, got 'abc'; try dataset.augment.mixup"),
    ("++dataset.augment.flip=3", "must be true or false, got 3; try dataset.augment.flip=true"),
    ("trainer.devices=many", "trainer.devices must be a whole number >= 1, a list of numbers, -1"),
    ("trainer=[1]", "trainer takes one choice; in a sweep type -m trainer=1"),
    (
        "loss=ft loss.student_layers=stages.0",
        "must be a list of names, got 'stages.0'; try loss.st",
    ),
    ("loss=ft loss.student_layers=null", "loss.student_layers must be a list of names, got None"),
    ("loss=ft loss.terms.ft.loss.rate=x", "loss.rate must be > 0, got 'x'; try loss.terms.ft.loss"),
    (
        "loss=mlkd loss.temperatures=4",
        "must be a list of numbers > 0, got 4; try loss.temperatures=[4]",
    ),
    ("loss=mlkd loss.temperatures=[]", "must be a list of numbers > 0, got []; try loss.temp"),
    (
        "student=lenet5 student.model.units=[120,0]",
        "whole numbers >= 1, or [], got [120, 0]; try student.model.units=[120]",
    ),
    (
        "transfer=class_impressions transfer.concentrations=[1,-1,2]",
        "try transfer.concentrations=[1,2]",
    ),
    ("loss=ofa loss.powers=null", "loss.powers must be a list of numbers, or a number, got None"),
    ("transfer=class_impressions transfer.concentrations=3", "try transfer.concentrations=[3]"),
    ("transfer=generator transfer.lr={a:1}", "lr must be > 0, got {'a': 1}; try transfer.lr=0.001"),
    ("dataset.mean=foo", "dataset.mean must be numbers, one per channel, or one of imagenet, cif"),
    ("dataset.std=[1,2]", "dataset.std must be 1 numbers above 0, one per channel, or a list of"),
    ("transfer=class_impressions +transfer.iteration=5", "did you mean transfer.iterations? there"),
    ("scheduler=multistep ~scheduler.milestones", "scheduler.milestones has no value, and MultiSt"),
    ("loss=kd ~loss.terms.kd.loss.temperature", "loss.temperature has no value, and SoftTarget"),
    (
        "student.view={size:4}",
        "student.view.size must be [height, width], whole numbers >= 1, got 4",
    ),
    (
        "+teacher.members.a=3",
        "teacher.members.a must be what differs, got 3; try '+teacher.members.",
    ),
    (
        "+teacher.assistants.m=mlp",
        "must be a model, got 'mlp'; type +model@teacher.assistants.m=mlp",
    ),
    ("-m sweep.trial_timeout=10m", "must be seconds > 0, or null for none, got '10m'; try sweep."),
    ("-m sweep.max_retries=x", "must be a whole number >= 0, got 'x'; try sweep.max_retries=2"),
    ("-m sweep.reference_point.val_accuracy=abc", "must be a number, got 'abc'; try sweep.ref"),
    ("-m sweep.storage=123", "sweep.storage must be a URL, or null for SQLite in the folder"),
    ("-m sweep.seed=x", "sweep.seed must be a whole number from 0 to 4294967295, got 'x'"),
    ("-m sweep.constraints=3", "sweep.constraints must be a list, got 3; try sweep.constraints="),
    ("-m sweep.start_from=[3]", "must be a list of settings, or another sweep, got [3]"),
    ("-m sweep.objectives=val_accuracy", "must be a mapping of metrics to maximize or minimize"),
]
RANGES = [
    ("loss.temperature=-1", "loss.temperature must be > 0, got -1; try loss.temperature=4"),
    ("loss.temperature=nan", "loss.temperature must be > 0, got nan"),
    ("loss.lambda=1.5", "loss.lambda must be from 0 to 1, got 1.5; try loss.lambda=0.9"),
    ("dataset.val_fraction=1", "must be above 0 and below 1, got 1; try dataset.val_fraction=0.2"),
    ("dataset.test_fraction=0", "dataset.test_fraction must be above 0 and below 1, got 0"),
    ("dataset.batch_size=0", "dataset.batch_size must be a whole number >= 1, got 0"),
    ("dataset.split_seed=-1", "dataset.split_seed must be a whole number from 0 to 4294967295"),
    ("dataset.subset=1.5", "dataset.subset must be a share in (0, 1], a count >= 1, or null"),
    ("student.model.dropout=1", "must be at least 0 and below 1, got 1; try student.model.dropo"),
    ("seed=-1", "seed must be a whole number from 0 to 4294967295, got -1; try seed=0"),
    ("soft_targets.top_k=10", "soft_targets.top_k must be below the 10 classes, got 10"),
    ("soft_targets.max_gb=0", "must be a number > 0, got 0; try soft_targets.max_gb=8"),
    ("soft_targets.views=0", "must be a whole number >= 1, or null, got 0"),
    ("shift_classes=[12]", "must be a list of some, not all, of the classes 0 to 9, got [12]"),
    ("paper_rule=first", "paper_rule must be null, last_epoch or best_epoch, got 'first'"),
    ("num_threads=0", "num_threads must be a whole number >= 1, got 0"),
    ("efficiency.num_runs=0", "efficiency.num_runs must be a whole number >= 1, got 0"),
    ("trainer.devices=0", "trainer.devices must be a whole number >= 1, a list of numbers, -1"),
    ("trainer.gradient_clip_val=-1", "must be > 0, or null for none, got -1; try trainer.gradi"),
    ("+trainer.accumulate_grad_batches=0", "accumulate_grad_batches must be a whole number >= 1"),
    ("teacher.trainer.max_epochs=0", "teacher.trainer.max_epochs must be a whole number >= 1"),
    ("-m sweep.max_retries=-1", "sweep.max_retries must be a whole number >= 0, got -1"),
    ("-m sweep.devices_per_trial=0", "must be a whole number >= 1, or null, got 0; try sweep.de"),
    ("-m sweep.n_trials=0", "sweep.n_trials must be a whole number >= 1, got 0"),
    ("-m sweep.n_trials=1.5", "sweep.n_trials must be a whole number >= 1, got 1.5"),
    ("-m sweep.seeds=0", "sweep.seeds must be a whole number >= 1, got 0; try sweep.seeds=2"),
    ("-m sweep.workers=0", "sweep.workers must be a whole number >= 1, or null for one a core"),
    ("-m sweep.early_stopping=2", "must be a confidence between 0 and 1, or null, got 2; try"),
    ("-m sweep.name=../x", "sweep.name must be a folder's name of letters, digits, . _ and -"),
    ("-m sweep.name=" + "x" * 300, "sweep.name has 300 characters, a folder's name at most 100"),
    ("-m loss.temperature=-1,4", "in the search space: loss.temperature must be > 0, got -1"),
    ("-m loss.temperature=interval(9,2)", "loss.temperature=interval(9,2)"),
    ("loss=gkd loss.beta=2 " + TEXT, "loss.beta must be in [0, 1], got 2; try loss.beta=1"),
    ("loss=gkd loss.text.generation.top_p=0 " + TEXT, "loss.text.generation.top_p must be in (0"),
    ("loss=distillm loss.text.replay.capacity=-1 " + TEXT, "capacity must be a whole number >= 1"),
    (
        "loss=label_smoothing loss.smoothing=2",
        "loss.smoothing must be in [0, 1), got 2; try loss.s",
    ),
    (
        "student.view={crop:[9,9]}",
        "student.view.crop=[9, 9] is larger than the example, [8, 8]; try",
    ),
    ("teacher.view={channels:[1]}", "teacher.view.channels has 1, but an example has the channels"),
    (
        "loss=ab +loss.stages.boundaries.scheduler="
        "{_target_:kd_research.training.schedules.Cosine,warmup:9}",
        "loss.stages.boundaries.scheduler.warmup=9 epochs leave none of the 4 of the stage; try",
    ),
    ("loss=kd loss.terms.kd.loss.student_temperature=x", "student_temperature must be > 0, or nu"),
    ("loss=crd teacher=cnn loss.num_negatives=0", "loss.num_negatives must be a whole number >="),
    ("transfer=generator transfer.lr=x", "transfer.lr must be > 0, got 'x'; try transfer.lr=0.001"),
    ("optimizer=dot optimizer.difference=7", "difference must be in [0, 0.5], got 7; try optimiz"),
    ("+optimizer.betas=[2,0.9]", "betas must be two numbers, at least 0 and below 1, got [2, 0.9]"),
    ("optimizer=sgd optimizer.nesterov=true optimizer.momentum=0", "type optimizer.momentum=0.9"),
    ("adapter@student.adapter=lora student.adapter.r=-2 " + TEXT, "adapter.r must be a whole num"),
    (
        "-m transfer=class_impressions transfer.num_examples=interval(10,200)",
        "num_examples=24000, or transfer.num_examples=int(interval(10,200))",
    ),
    ("-m loss=gkd loss.beta=interval(0,2) " + TEXT, "in the search space: loss.beta must be in ["),
]
TRAINING = [
    ("trainer.check_val_every_n_epoch=50", "is above max_epochs=30: no epoch would be validated"),
    ("trainer.check_val_every_n_epoch=0", "try trainer.check_val_every_n_epoch=1"),
    ("+trainer.max_steps=5", "a run is made of whole epochs, whose last is validated; type train"),
    ("+trainer.fast_dev_run=true", "for a quick try type trainer.max_epochs=1 dataset.subset=0.1"),
    ("+teacher.trainer.fast_dev_run=1", "teacher.trainer.fast_dev_run keeps no student"),
    ("+trainer.limit_val_batches=0", "trainer.limit_val_batches must be a whole number of batch"),
    ("+trainer.limit_train_batches=0", "try trainer.limit_train_batches=1.0"),
    ("+trainer.limit_train_batches=1.5", "or a share above 0.0 and at most 1.0, got 1.5"),
    ("trainer.precision=fp16", "must be one of 32-true, bf16-mixed, 16-mixed, got 'fp16'; try tr"),
    ("trainer.precision=64", "must leave the inputs float32, got 64; try trainer.precision=32-t"),
    ("trainer.precision=16-mixed trainer.accelerator=cpu", "needs a GPU, got trainer.accelerator"),
    ("trainer.accelerator=gpuu", "trainer.accelerator must be one of auto, cpu, gpu, cuda, mps"),
    ("trainer.accelerator=gpu", "but this machine shows no GPU"),
    ("trainer.strategy=dpp", "trainer.strategy must be one of auto, ddp, fsdp, deepspeed"),
    ("+trainer.logger=true", "trainer.logger is set by kd_research itself; leave it out"),
]
FILES = [
    ("teacher.checkpoint=/nowhere", "teacher.checkpoint=/nowhere does not exist; give a file"),
    ("student.checkpoint=/nowhere", "student.checkpoint=/nowhere does not exist; give a file"),
    ("teacher.checkpoint=HERE/empty", "is a folder without weights (weights.pt, model.safetenso"),
    ("teacher=run teacher.run=/nowhere", "teacher.run=/nowhere is no run's folder; looked for"),
    ("dataset=mnist dataset.root=/nowhere", "dataset.root=/nowhere is not a folder, nor a file"),
    (f"{HUB} dataset.root=HERE/empty", "no training split in dataset.root="),
    (f"{HUB} dataset.root=HERE/part", "lacks 1 of 2 files: train-00001-of-00002.parquet; finish"),
    (f"{HUB} dataset.root=HERE/two", "has splits in 2 folders: a, b; type dataset.config_name=b"),
    (f"{HUB} dataset.root=HERE/two dataset.config_name=c", "dataset.config_name=c is no folder"),
    (
        f"{HUB} dataset.root=HERE/part +dataset.splits.train='train[:100]'",
        "dataset.splits.train=train[:100] is no split's name, and a split is read whole; type its",
    ),
    (
        f"{HUB} dataset.root=HERE/part +dataset.splits.test=eval",
        "dataset.splits.test=eval is not in HERE/part, which has train; type ++dataset.splits.tes",
    ),
    (
        f"{HUB} dataset.root=HERE/part +dataset.splits.test=train",
        "the split 'train' of HERE/part would be both train and test; type ++dataset.splits.test=",
    ),
    (
        f"{HUB} dataset.path=a/b +dataset.splits.dev=x",
        "dataset.splits has dev; its keys are our names, train, validation, test: type",
    ),
    (f"{HUB} dataset.root=HERE/part dataset.splits=x", "dataset.splits must be a mapping, got 'x'"),
    (HUB, "dataset hub has no files; type dataset.root=FOLDER, or dataset.path=HUB_NAME"),
    ("dataset=hub", "dataset.input_shape has no value; type dataset.input_shape="),
    ("output_dir=/proc/none", "output_dir is no folder that can be written"),
    ("output_dir=HERE/file", "output_dir is no folder that can be written"),
    ("-m sweep.storage=sqlite:////nowhere/x.db", "there is no folder /nowhere for its file"),
    ("-m sweep.storage=mongo://x/y", "mongo:// is no storage of a study; try sweep.storage=null"),
    ("-m sweep.storage=postgresql+nodriver://x/y", "needs nodriver, which is not installed"),
    ("-m sweep.storage=postgresql://127.0.0.1:1/x", "no answer from 127.0.0.1:1 ("),
]
TOGETHER = [
    ("teacher=none", "the loss's kd needs a teacher, got teacher=none; try teacher=cnn, or loss"),
    ("loss=at student=mlp", "which student=mlp has not; try student=cnn"),
    ("loss=fitnet teacher=mlp student=cnn", "which teacher=mlp has not; try teacher=cnn"),
    ("dataset=sst2 dataset.root=null", "teacher: this model is for images, dataset sst2 is text"),
    ("dataset=sst2 teacher=bilstm", "try student=bag_of_embeddings (models of text: "),
    ("student=bilstm", "student: this model is for text, dataset digits is not; try student=mlp"),
    (
        "dataset=table dataset.path=x dataset.num_classes=3 dataset.input_shape=[4]",
        "dataset table is a table of 4 columns; try teacher=mlp",
    ),
    (TEXT + " student.view={size:[4,4]}", "student.view is of images or tables, and dataset tinys"),
    (
        "+teacher.loss.stages={a:{epochs:1,weights:{ce:1}}}",
        "teacher.loss.stages is not read: a teacher is trained in one go, on its data; type '~tea",
    ),
    ("student.model.num_classes=7", "student.model.num_classes is 7, but the dataset's is 10"),
    ("student=timm student.model.model_name=x", "type pip install 'kd_research[timm]'"),
    ("student.model._target_=mine.Net", "mine is not installed; type pip install mine, or set PY"),
    ("student.model._target_=kd_research.models.mlp.MPL", "no 'MPL' in mlp; did you mean MLP?"),
    ("student.model._target_=kd_research.models.mpl.MLP", "no 'mpl' in models; did you mean mlp?"),
    (
        f"{TEXT} loss=seqkd ++teacher.dataset={{tokens:bpe,vocab_size:1024}}",
        "the teacher write in the student's tokens; type loss=uld +text@loss.text=student, or",
    ),
    (
        f"{TEXT} loss=minillm ++teacher.dataset={{tokens:bpe,vocab_size:1024}}",
        "the teacher write in the student's tokens; type loss=uld +text@loss.text=student, or",
    ),
    (
        f"{TEXT} loss=ce +text@loss.text=student ++teacher.dataset={{tokens:bpe,vocab_size:1024}}",
        "it needs a term with a teacher, and this loss has none; type loss=uld +text@loss.text=st",
    ),
    (f"{TEXT} loss=seqkd text@loss.text=student", "and has no labels: it needs a term with a teac"),
    (f"{TEXT} loss=ce +text@loss.text=student", "and this loss has none; type loss=gkd, or a loss"),
    (f"{TEXT} loss=gkd teacher=none", "gkd needs a teacher, got teacher=none; try teacher=gpt, or"),
    (
        f"-m {TEXT} loss=ce teacher=none +sweep.objectives.teacher_agreement=maximize",
        "teacher_agreement needs a teacher, got teacher=none; try teacher=gpt",
    ),
    (f"{TEXT} transfer=generator", "for images or tables, dataset tinyshakespeare is text; type"),
    (
        "transfer=class_impressions transfer.variants=0 loss.lambda=1 dataset=privileged "
        'teacher=mlp student=mlp teacher.view={channels:"50:52"} student.view={channels:"0:50"}',
        "the student sees 50 channels (or columns) that teacher.view leaves out, 0 the first; type",
    ),
    ("transfer=generator teacher=none loss=ce", "is made of the teacher, got teacher=none; type"),
    ("loss=gkd", "loss.text draws text, and dataset digits has no windows of it; type dataset=ti"),
    (
        f"{TEXT} loss=gkd loss.text.prompt_tokens=70",
        "more than a window of 64 tokens and the one after it; try loss.text.prompt_tokens=32, or",
    ),
    (
        f"{TEXT} loss=seqkd loss.text.prompt_tokens=70 loss.text.max_new_tokens=40",
        "try loss.text.prompt_tokens=32 loss.text.max_new_tokens=33, or a larger dataset.context",
    ),
    (
        "-m +sweeps=tune_prompt_or_distil dataset.root=HERE base=HERE",
        "teacher.run has no value; type teacher.run=VALUE",
    ),
    (
        "-m +sweeps=tune_prompt_or_distil dataset.root=HERE",
        "teacher.run has no value; type teacher.run=VALUE\nbase has no value; type base=VALUE",
    ),
    (
        f"{TEXT} loss=crd +text@loss.text=student",
        "the loss's crd remembers every training example, and text that the student draws is anot",
    ),
    ("-m sweep.objectives.num_params=less", "must be maximize or minimize, got 'less'"),
    ("-m +sweep.objectives.val_acc=maximize", "unknown objective val_acc; did you mean val_accur"),
    ("-m +sweep.objectives.test_accuracy=maximize", "the test split never reaches the optimiser"),
    ("-m +sweep.objectives.energy_joules=minimize", "sweep.objectives.energy_joules: "),
    (
        "-m +sweep.objectives.teacher_agreement=maximize teacher=none loss=ce",
        "teacher_agreement needs a teacher, got teacher=none; try teacher=cnn",
    ),
    ("-m sweep.constraints=[num_params]", "'num_params' is no limit; try 'num_params <= 20000'"),
    ("-m sweep.space={}", "the search space is empty: give sweep.space, or keys in sweep syntax"),
    ("+scheduler.T_max=3", "a schedule is as long as its fit; type trainer.max_epochs=3"),
    ("-m sampler=brute_force", "it tries every point, and loss.temperature=tag(log, interval(1"),
    ("-m teacher=none loss=kd,dkd", "the loss's dkd needs a teacher, got teacher=none"),
    ("-m loss=at,kd", "in the search space: the loss's at compares the layers stages.0, stages.-1"),
]
SYNTAX = [
    ("loss = kd", "no spaces stand around =; type loss=kd"),
    ("loss=[kd,at]", "one choice; in a sweep type -m loss=kd,at"),
    ("loss=kd,dkd", "several values are a sweep; type -m loss=kd,dkd"),
    ("loss.temperature=1,2", "several values are a sweep; type -m loss.temperature=1,2"),
    ("model=cnn", "there is no model at the top; type student=cnn or teacher=cnn"),
    ("loss", "loss is no override; type loss=VALUE"),
    ("dataset.root=/data/a=b", "type \"dataset.root='/data/a=b'\""),
    ("-m dataset.root=/data/é,/data/a", "type \"dataset.root='/data/é','/data/a'\", all quotes"),
    ("dataset.root=/data/é", "type \"dataset.root='/data/é'\""),
    (f"{TEXT} loss=gkd +text@loss.text=teacher", "has one already; type text@loss.text=teacher"),
    (
        "teacher.dataset={tokens:bpe}",
        "is empty, and has no tokens; +teacher.dataset.tokens=... a",
    ),
    (
        "transfer=class_impressions transfer.concentrations={a:1}",
        "must be a list, got {'a': 1}; try transfer.concentrations=[1.0,0.1]",
    ),
    ("loss.temperature=choice(1", "loss.temperature=choice(1: "),
    ("-m ~sweep.space.student.model.width", "student.model.width=VALUE takes it out"),
    ("-m sweep.objectives={val_acc:maximize}", "unknown objective val_acc; did you mean val_acc"),
    (
        "-m sweep.objectives={test_accuracy:maximize}",
        "so test_accuracy is no objective; type 'sweep.objectives={val_accuracy: maximize}'",
    ),
]
COMMANDS = [*TYPOS, *TYPES, *RANGES, *TRAINING, *FILES, *TOGETHER, *SYNTAX]
NOT_HERE = {
    "trainer.accelerator=gpu": HAS_GPU,
    "student=timm student.model.model_name=x": find_spec("timm") is not None,
    "-m +sweep.objectives.energy_joules=minimize": HAS_GPU and find_spec("zeus") is not None,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    (folder / "empty").mkdir()
    (folder / "file").touch()
    for name in ("part/train-00000-of-00002", "two/a/train-0", "two/b/train-0"):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def typed(command: str, here: Path) -> list[str]:
    words = command.replace("HERE", str(here)).split()
    return words if "output_dir=" in command else [*words, f"output_dir={here}/outputs"]


def told(arguments: list[str], monkeypatch: pytest.MonkeyPatch, explained: bool) -> str:
    """What the command says, run in this process up to where it would start to work."""

    def goes_on(*_: object) -> None:
        pytest.fail(f"{arguments} was accepted")

    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(os, "execv", goes_on)
    monkeypatch.setattr("kd_research.sweep.run.run_sweep", goes_on)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if not explained:  # it composes three times, and has nothing to say of most commands
        monkeypatch.setattr(run, "explain", lambda _: [])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code not in (None, 0)
    return str(ended.value.code)


OWN = [  # a group, what stands in a file of one's own, and what is told
    (
        "student",
        b"",
        "student.model must be a mapping with a _target_, the class that makes it, got No",
    ),
    (
        "student",
        b"model: 3",
        "student.model must be a mapping with a _target_, the class that makes it",
    ),
    (
        "student",
        b"model: {width: 3}",
        "got {'width': 3}; conf/model/mlp.yaml is one; in a file student/N",
    ),
    ("student", b"- a", "mine.yaml holds a list; type KEY: VALUE lines, as in conf/model/mlp.yaml"),
    ("student", b"3", "mine.yaml cannot be read as YAML: "),
    (
        "student",
        b"model: {a: {b}",
        "mine.yaml cannot be read as YAML: while parsing a flow mapping",
    ),
    (
        "student",
        b"model:\n\ta: 1",
        "mine.yaml cannot be read as YAML: while scanning for the next token",
    ),
    (
        "student",
        b"model: {a: caf\xe9}",
        "mine.yaml cannot be read as YAML: 'utf-8' codec can't decode",
    ),
    ("loss", b"", "loss must have a ce_weight, that of the labels' cross-entropy"),
    (
        "loss",
        b"{ce_weight: 1, terms: 3}",
        "loss.terms must be a mapping of names to terms, got 3; try",
    ),
    ("loss", b"{ce_weight: 1, terms: {a: 4}}", "loss.terms.a must have a loss and a weight, got 4"),
    (
        "loss",
        b"{ce_weight: 1, terms: {a: {loss: {}, weight: 1}}}",
        "needs loss._target_ and weight, g",
    ),
    (
        "optimizer",
        b"lr: 1",
        "optimizer must be a mapping with a _target_, the class that makes it, got {",
    ),
]


@pytest.mark.parametrize(("group", "text", "expected"), OWN)
def test_a_wrong_file_of_ones_own_is_told(
    group: str, text: bytes, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "own" / group / "mine.yaml").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    message = told(["--config-dir", "own", f"{group}=mine"], monkeypatch, explained=True)
    assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == ["own"], "a folder was made"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teacher: null", "teacher is null; leave it out of the file, or state its settings"),
        ("dataset: null", "dataset is null; leave it out of the file"),
        ("pool: null", "pool is null; leave it out of the file"),
        ("sampler: null", "sampler is null; leave it out of the file"),
        ("sweep: null", "sweep is null; leave it out of the file"),
        ("tracking: null", "tracking is null; leave it out of the file"),
        ("hydra: {sweep: {dir: ''}}", "hydra.sweep.dir is empty, which would be the folder here"),
        ("output_dir: ''", "output_dir is empty, which would be the folder here"),
        (
            "sweep: {rows: {a: {overrides: {tracking: csv}}}}",
            "tracking is the sweep's, not a row's",
        ),
    ],
)
def test_a_sweep_of_ones_own_that_takes_a_part_away_is_told(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    choice = "defaults: [override /sweep: rows]\n" if "rows" in text else ""
    (tmp_path / "own" / "sweeps" / "mine.yaml").write_text(f"# @package _global_\n{choice}{text}\n")
    monkeypatch.chdir(tmp_path)
    message = told(["-m", "--config-dir", "own", "+sweeps=mine"], monkeypatch, explained=True)
    assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == ["own"], "a folder was made"


def test_what_a_class_of_ones_own_does_not_take_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`+student.model={...}` adds to the default's keys, which the class has not."""
    (tmp_path / "net_of_ones_own.py").write_text(
        "class Net:\n    def __init__(self, input_shape, num_classes, hidden=8): ..."
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = "+student.model={_target_: net_of_ones_own.Net, hidden: 4}"
    message = told([model, "student.model.hidden=5"], monkeypatch, explained=True)
    for key in ("width", "depth"):
        assert (
            f"student.model.{key} is no argument of Net; there are: input_shape, num_c" in message
        )
    assert "hidden" not in message.replace("num_classes, hidden", "")
    assert not (tmp_path / "outputs").exists()


def test_an_adapter_with_its_class_is_taken_as_it_is_typed() -> None:
    typed_whole = as_whole(["student.adapter={_target_: peft.LoHaConfig, r: 4}"])
    assert explain(typed_whole) == []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        adapter = compose("config", overrides=typed_whole).student.adapter
    assert adapter == {"_target_": "peft.LoHaConfig", "r": 4}


def test_there_are_enough() -> None:
    assert len({command for command, _ in COMMANDS}) >= 80


@pytest.mark.parametrize(("command", "expected"), COMMANDS, ids=[each for each, _ in COMMANDS])
def test_a_wrong_command_is_told(
    command: str,
    expected: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if NOT_HERE.get(command):
        pytest.skip("this machine has what the command asks for")
    before = sorted(here.rglob("*"))
    explained = (command, expected) in TYPOS + SYNTAX or "output_dir" in command
    message = told(typed(command, here), monkeypatch, explained)
    printed = capsys.readouterr()
    said = f"{message}\n{printed.err}{printed.out}"
    assert expected.replace("HERE", str(here)) in said
    assert "Traceback" not in said
    assert len(message.splitlines()) <= 6, message
    assert sorted(here.rglob("*")) == before, "a folder was made"


SAMPLE = [TYPOS[0], TYPES[15], TRAINING[3], FILES[6], TOGETHER[0], SYNTAX[0]]


@pytest.mark.parametrize(("command", "expected"), SAMPLE, ids=[each for each, _ in SAMPLE])
def test_a_real_command_line_says_the_same(command: str, expected: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    done = warm.run(
        [sys.executable, "-m", "kd_research.run", *typed(command, here)],
        capture_output=True, text=True, cwd=here,
    )  # fmt: skip
    assert done.returncode != 0
    assert expected.replace("HERE", str(here)) in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(here.rglob("*")) == before

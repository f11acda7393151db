"""Opens a plan's study: made, or found again; one sweeper at a time."""

from __future__ import annotations

from filelock import FileLock
from hydra.utils import instantiate

from kd_research.sweep.plan import Plan
from kd_research.sweep.storage import open_storage
from kd_research.sweep.study import SharedStudy


def open_study(plan: Plan) -> SharedStudy:
    """The plan's study, with what it starts from; sweep.yaml is written.

    Raises:
        ConfigError: the folder holds a sweep with other settings.
    """
    settings = plan.config.sweep
    with FileLock(plan.directory / "open.lock"):
        shared = SharedStudy(
            str(settings.name),
            open_storage(settings.storage, plan.directory),
            plan.directory,
            plan.objectives,
            instantiate(plan.config.sampler),
            int(settings.seed),
        )
        if known := shared.study.user_attrs.get("fingerprint"):
            plan.refuse_other(known)
        shared.study.set_user_attr("fingerprint", plan.fingerprint())
        for params in plan.start_from:
            shared.study.enqueue_trial(params, skip_if_exists=True)
        plan.write()
    return shared

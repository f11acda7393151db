"""Where a plan's runs happen, for as long as they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kd_research.configuration.config import ConfigError
from kd_research.pools.local import Pool
from kd_research.sweep.plan import Plan
from kd_research.tracking import imported_ahead


@contextmanager
def opened_pool(plan: Plan) -> Iterator[Pool]:
    """The pool that a plan's configuration describes; closed at the end.

    Raises:
        ConfigError: it cannot be had, as a cluster that does not answer.
    """
    try:
        pool: Pool = instantiate(plan.config.pool, devices_per_trial=plan.processes)
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise
    ahead = imported_ahead(plan.config.tracking, str(plan.config.output_dir))
    if ahead and hasattr(pool, "import_ahead"):
        pool.import_ahead(*ahead)
    if hasattr(pool, "connect"):  # Hydra's launchers are made from what Hydra composed
        pool.connect(plan.composition.loader, plan.composition.master)
    with closing(pool):
        yield pool

"""The order of the suite, and who has it; what tests need is in `shared_fixtures.py`."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

# The longest, in this order. They start first: what ends the suite should be short.
LONG = (
    *("test_ray.py", "test_paper_sweeps.py", "test_local.py", "test_report_page.py"),
    *("test_losses.py", "test_gpu.py", "test_anywhere.py", "test_secrets.py", "test_plan.py"),
    *("test_continuation.py", "test_damage.py", "test_storages.py", "test_hydra_launcher.py"),
    *("test_public_weights.py", "test_store.py", "test_outside_trouble.py", "test_stream.py"),
    *("test_run.py", "test_losses_fit.py", "test_pages.py", "test_wrong_commands.py"),
    *("test_default_losses.py", "test_report_tables.py", "test_costs.py"),
)


class Told:
    """Says at once which test failed: a suite that is cut off has no summary."""

    def __init__(self, config: pytest.Config):
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self.config.pluginmanager.getplugin("terminalreporter")
            why = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            said = " ".join(why[0][1:].split())[:300] if why else ""
            terminal.write_line("")
            terminal.write_line(f"FAILED {report.nodeid} ({report.when}): {said}")


def pytest_configure(config: pytest.Config) -> None:
    """Failures are told where results come together; what tests need is where they run.

    Ctrl-C works also where a shell took it away: what a shell starts in the background ignores it,
    and so would all that tests start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        config.pluginmanager.register(Told(config))
    if is_worker or not config.getoption("tx", None):
        config.pluginmanager.import_plugin("shared_fixtures")  # seconds of imports


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of the files, which `--no-loadscope-reorder` hands out as it is."""
    sizes = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            LONG.index(item.path.name) if item.path.name in LONG else len(LONG),
            -sizes[item.path],
        )
    )

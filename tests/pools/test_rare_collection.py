"""Garbage is looked for seldom while a program starts, and as ever in a run."""

import subprocess
import sys

from kd_research.pools.local import FIRST, LocalPool


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_start_collects_seldom_and_a_run_as_python_does():
    first, then, after, frozen, new = printed(
        "import gc; print(gc.get_threshold()[0])\n"
        "from kd_research.pools import rare_collection as it; print(gc.get_threshold()[0])\n"
        "it.end(); print(gc.get_threshold()[0], gc.get_freeze_count() > 1000, gc.is_tracked([]))\n"
    )
    assert int(first) == int(after) < int(then)
    assert (frozen, new) == ("True", "True")


def test_who_imports_the_package_keeps_its_own_way():
    modules = "kd_research.run, kd_research.pools.local, kd_research.pools.child"
    before, after = printed(
        f"import gc; print(gc.get_threshold()[0]); import {modules}; print(gc.get_threshold()[0])"
    )
    assert before == after


def test_the_server_is_deaf_to_an_interrupt_and_a_run_is_not():
    first, then, frozen = printed(
        "import gc, os, signal, kd_research.pools.server_start as it\n"
        "os.kill(os.getpid(), signal.SIGINT); print('alive')\n"
        "it.end(); print(signal.getsignal(signal.SIGINT).__name__, gc.get_freeze_count() > 1000)"
    )
    assert (first, then, frozen) == ("alive", "default_int_handler", "True")


def test_the_server_imports_it_before_the_program(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "multiprocessing.context.ForkServerContext.set_forkserver_preload",
        lambda self, names: asked.append(names),
    )
    LocalPool(slots=1)
    assert asked[0][0] == FIRST

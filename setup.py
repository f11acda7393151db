"""The wheel takes conf/ and sweeps/ inside the package; in a checkout they stay beside it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    """Copies the YAML into what is built, unless the install is editable."""

    def run(self) -> None:
        """As setuptools does, then the folders."""
        super().run()
        if self.editable_mode:
            return
        for name in ("conf", "sweeps"):
            target = Path(self.build_lib, "kd_research", name)
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(name, target)


setup(cmdclass={"build_py": BuildWithConfiguration})

"""`kd new FOLDER`: a person's own folder, with one loss, model, data set and sweep as examples."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TEMPLATE = Path(__file__).with_name("template")


def new(arguments: list[str]) -> int:
    """Write the folder; 0 written, 2 wrong input.

    Args:
        arguments: of the command line: the folder, which must not exist or be empty.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: kd new FOLDER", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    folder = Path(arguments[0]).expanduser()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            print(f"{folder} is there already and not empty; name a new folder", file=sys.stderr)
            return 2
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=ignored)
    except OSError as error:
        print(f"{folder} cannot be written: {error}", file=sys.stderr)
        return 2
    print((folder / "README.md").read_text(encoding="utf-8").replace("FOLDER", str(folder)))
    return 0

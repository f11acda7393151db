"""`kd`: every command of the package under one short name, and `kd new`.

`kd run ...` is `python -m kd_research.run ...` to the letter: the process becomes that one.
"""

from __future__ import annotations

import os
import sys

from kd_research.commands.new import new

MODULES = {  # word -> the module that it runs, and what that does
    "run": ("kd_research.run", "one distillation; with -m a sweep"),
    "report": ("kd_research.report", "tables, front and one HTML page from a sweep's folder"),
    "export": ("kd_research.export", "the student as a file for a device"),
    "generate": ("kd_research.generate", "DIR --prompt TEXT: what student and teacher write"),
    "track": ("kd_research.tracking", "sync DIR: upload to W&B what was logged offline"),
    "trial": ("kd_research.trial", "DIR: run the folder of any run again"),
    "remeasure": ("kd_research.remeasure", "DIR: measure the costs of runs anew"),
}


def main() -> None:
    """The console script."""
    word, *arguments = sys.argv[1:] or ["--help"]
    if word in MODULES:
        module = MODULES[word][0]
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    if word == "new":
        sys.exit(new(arguments))
    known = {word: text for word, (_, text) in MODULES.items()}
    known["new"] = "FOLDER: a folder for your own losses, models, data and sweeps, ready to run"
    lines = [f"  kd {name:10} {text}" for name, text in known.items()]
    usage = "\n".join(["usage: kd COMMAND ...", "", *lines])
    if word in ("-h", "--help", "help"):
        print(usage)
        sys.exit(0)
    sys.exit(f"there is no command {word!r}\n{usage}")

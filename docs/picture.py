"""The README's picture, of a real sweep: the terminal beside the page. Needs Chromium.

    python docs/picture.py outputs/sweeps/digits docs/images/first_sweep.png

What the terminal shows is what `python -m kd_research.report` prints, cut before its list of files.
"""

from __future__ import annotations

import html
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT, COLUMNS = 1640, 1060, 100
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; display: flex; gap: 16px; background: #fff; padding: 8px; }}
pre {{ margin: 0; padding: 14px; background: #14181d; color: #e6e6e6; border-radius: 8px;
      white-space: pre-wrap; font: 11.2px/1.3 "DejaVu Sans Mono", monospace; width: 700px;
      height: 1016px; overflow: hidden; flex: none; }}
iframe {{ border: 1px solid #ccc; border-radius: 8px; width: 1100px; height: 1302px;
         transform: scale(0.8); transform-origin: 0 0; flex: none; }}
</style><pre>$ python -m kd_research.run -m
{text}</pre><iframe src="{page}"></iframe>"""


def picture(sweep: Path, target: Path) -> None:
    """Draw the sweep's report as a terminal prints it, and its page, into one PNG."""
    command = [sys.executable, "-m", "kd_research.report", str(sweep)]
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    text = html.escape(printed.stdout.split("Where to look next")[0].strip())
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        report = (sweep / "report.html").resolve().as_uri()
        page.write_text(PAGE.format(text=text, page=report), encoding="utf-8")
        chromium = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
        size = [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=8000"]
        how = [*size, f"--screenshot={shot}", page.as_uri()]
        subprocess.run([*chromium, *how], check=True, capture_output=True)
        small = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB").quantize(48)
        small.save(target, optimize=True)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))

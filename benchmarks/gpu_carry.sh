#!/bin/bash
# What `benchmarks/gpu.py` needs on a machine with a GPU, Python 3.12, torch 2.11 and no package
# registry, gathered here into pieces below 58 MiB each, which travel one by one:
#
#     bash benchmarks/gpu_carry.sh DATA        # DATA has cifar100 and tinyshakespeare, in Parquet
#
# Wheels of what pyproject.toml asks for (constraints.txt's versions), for Linux on x86-64, and the
# data, in .wheels/1, .wheels/2, ... torch and what torch brings stay behind. So do the packages of
# HAVE, which are large and which an image with torch mostly has: look with `pip list` there, and
# say HAVE="" to carry all of them too. PYTHON is the one to fetch with. Prints the commands to type.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?which folder holds cifar100 and tinyshakespeare?}
python=${PYTHON:-.venv/bin/python}
pip="$python -m pip -qq"
export HAVE=${HAVE-numpy scipy pandas pyarrow scikit-learn matplotlib pillow}
rm -rf .wheels && mkdir -p .wheels/all

# Level by level: what the wheels of one level name is the next level.
wanted=$($python - <<'PYTHON'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
asked = project["dependencies"] + project["optional-dependencies"]["energy"]
print("\n".join(one.replace(" ", "") for one in asked))
PYTHON
)
while [ -n "$wanted" ]; do
  named=$(WANTED="$wanted" $python - <<'PYTHON'
"""Of the requirements wanted, those to fetch now: NAME==VERSION as constraints.txt has it."""
import os, re
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pins = dict(line.strip().split("==") for line in open("constraints.txt") if "==" in line)
pins = {plain(name): version for name, version in pins.items()}
# torch, and what comes with it
left = {"torch", "triton", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "setuptools"}
left |= {plain(name) for name in os.environ["HAVE"].split()}
left |= {plain(path.split("-")[0]) for path in os.listdir(".wheels/all")}
for wanted in sorted(set(os.environ["WANTED"].split("\n"))):
    name = plain(re.match(r"[\w.-]+", wanted).group())
    if name not in left:
        left.add(name)
        print(f"{name}=={pins[name]}" if name in pins else wanted)
PYTHON
)
  [ -z "$named" ] && break
  echo "$named" | tr '\n' ' ' && echo
  sources=$(echo "$named" | grep '^antlr4' || true)  # has no wheel; pure Python
  [ -n "$sources" ] && $pip wheel --no-deps --wheel-dir .wheels/all $sources
  binaries=$(echo "$named" | grep -v '^antlr4' || true)
  [ -n "$binaries" ] && (echo "$binaries" > .wheels/named.txt
    PIP_CONSTRAINT= $pip download --no-deps --only-binary=:all: --python-version 3.12 \
      --implementation cp --abi cp312 --abi abi3 --abi none \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
      --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
      --platform manylinux2014_x86_64 --platform manylinux_2_5_x86_64 \
      --platform manylinux1_x86_64 --platform any \
      --dest .wheels/all --requirement .wheels/named.txt)
  wanted=$($python - <<'PYTHON'
"""What all wheels so far ask for on Linux with Python 3.12, extras left out."""
import glob, zipfile
from email.parser import HeaderParser
from pip._vendor.packaging.requirements import Requirement
machine = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux"}
machine |= {"platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
machine |= {"platform_python_implementation": "CPython", "implementation_name": "cpython"}
for path in glob.glob(".wheels/all/*.whl"):
    with zipfile.ZipFile(path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        text = HeaderParser().parsestr(wheel.read(name).decode(errors="replace"))
    for line in text.get_all("Requires-Dist") or []:
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate({**machine, "extra": ""}):
            print(f"{asked.name}{asked.specifier}")
PYTHON
)
done
rm -f .wheels/named.txt

DATA=$data $python - <<'PYTHON'
"""Everything into as few pieces as hold it, the largest first; then the commands."""
import os, pathlib, shutil
limit, root = 58 << 20, pathlib.Path(".wheels")
data = pathlib.Path(os.environ["DATA"])
files = [(path, "wheels") for path in (root / "all").glob("*.whl")]
for name in ("cifar100", "tinyshakespeare"):
    found = sorted(data.joinpath(name).glob("*.parquet"))
    if not found:
        raise SystemExit(f"{data / name} has no Parquet files")
    files += [(path, f"data/{name}") for path in found]
pieces = []  # [bytes, files]
for path, folder in sorted(files, key=lambda item: -item[0].stat().st_size):
    size = path.stat().st_size
    if size > limit:
        raise SystemExit(f"{path.name} alone is {size / (1 << 20):.0f} MiB")
    place = next((one for one in pieces if one[0] + size <= limit), None)
    if place is None:
        pieces.append(place := [0, []])
    place[0] += size
    place[1].append((path, folder))
for number, (size, held) in enumerate(pieces, 1):
    for path, folder in held:
        target = root / str(number) / folder
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
    print(f".wheels/{number}: {size / (1 << 20):.1f} MiB, {len(held)} files")
shutil.rmtree(root / "all")
print("\nOn the machine, in a copy of this folder, once for each piece that has come:")
for number in range(1, len(pieces) + 1):
    print(f"  mkdir -p /tmp/kd && cp -r .wheels/{number}/. /tmp/kd/")
print("\nThen:")
print("  python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/kd/site /tmp/kd/wheels/*.whl")
print("  PYTHONPATH=/tmp/kd/site python3 benchmarks/gpu.py --data /tmp/kd/data --out RESULTS")
print("\nRESULTS gets results.jsonl, table.md and log.txt; the runs themselves go to RESULTS_runs.")
PYTHON

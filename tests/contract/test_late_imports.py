"""What a loader's libraries import, they import before the clock runs: files of a library that are read in the first step would count as the dataset's bytes,
and the time as waiting for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

_SCRIPT = """
import sys
from storagebench.manifest import load_dataset
from storagebench.protocols import LoadJob
from storagebench.registry import open_loader
from storagebench.storage import open_store, parse_url

folder, name = sys.argv[1:]
dataset = load_dataset(open_store(folder))
run = open_loader(name).open(LoadJob(parse_url(folder), dataset, 0, 1, 4, decode="full", verify="full", keep_remainder=True, num_workers=2))
run.plan(0)
run.counters()
before = {module.partition(".")[0] for module in sys.modules}
run.start(0)
while run.next() is not None:
    pass
run.drain()
run.close()
late = {module.partition(".")[0] for module in sys.modules} - before - sys.stdlib_module_names
print(" ".join(sorted(late)))
"""


@pytest.mark.parametrize(("loader", "form"), [("parquet", "parquet"), ("direct", "parquet"), ("direct", "npz"), ("direct", "jpeg")])
def test_the_first_epoch_imports_no_library(loader: str, form: str, cli_here: Any, tmp_path: Any) -> None:
    folder = str(tmp_path / "data")
    made = cli_here("generate", "quick", "--format", form, "--payload", "jpeg" if form == "jpeg" else "bytes", "--num-samples", "24", "--record-length", "4KB", "--record-length-stdev", "0", "--data-dir", folder)  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = subprocess.run([sys.executable, "-P", "-c", _SCRIPT, folder, loader], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""

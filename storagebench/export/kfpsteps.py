"""The steps of the pipeline for Kubeflow Pipelines, each a call of the `storagebench` command, and the program that a container component starts.

Needs no kfp. `storagebench.export.kfppipeline` wraps the functions into components; `python -m storagebench.export.kfpsteps --help` shows the program.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from storagebench.errors import EXIT_INVALID, EXIT_OK, StorageBenchError, StorageError, UsageError
from storagebench.records import SUMMARY_FILE
from storagebench.report.metriclines import figures

_RUN_ID = "run"


class StepError(StorageBenchError):
    """A step's command failed; the exit code is the command's own."""

    def __init__(self, words: Sequence[str], exit_code: int) -> None:
        super().__init__(f"`storagebench {words[0]}` ended with exit code {exit_code}", "its own message stands above, in the log of this step")
        self.exit_code = exit_code


def _command(words: Sequence[str], allowed: Sequence[int] = (EXIT_OK,)) -> tuple[int, str]:
    """Run `storagebench WORDS`; exit code and stdout. What it says on stderr goes to the step's log at once. Raises StepError."""
    done = subprocess.run([sys.executable, "-P", "-m", "storagebench", *words], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode not in allowed:
        raise StepError(words, done.returncode)
    return done.returncode, done.stdout


def _write(path: str, text: str) -> None:
    """Raises StorageError."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", "free space where the pipeline keeps its artifacts") from None


def generate(workload: str, data_dir: str, options: Sequence[str], exists: bool, out: str) -> None:
    """Make the dataset and write what was made to `out` as JSON. With `exists` it is left as it is: the next step verifies it."""
    if exists:
        _write(out, json.dumps({"data_dir": data_dir, "generated": False}) + "\n")
        return
    _, text = _command(["generate", workload, "--data-dir", data_dir, *options, "--json"])
    _write(out, text)


def verify(data_dir: str, options: Sequence[str], out: str) -> None:
    """Read the whole dataset and compare its checksums; the findings as JSON. Raises StepError where it is not whole."""
    _, text = _command(["verify", "--data-dir", data_dir, *options, "--json"])
    _write(out, text)


def measure(workload: str, data_dir: str, options: Sequence[str], folder: str) -> dict[str, float]:
    """Run it; the run folder is `folder`/run. An invalid run (exit code 6) passes, so that the steps after it can say why; its figures are none.

    Raises StepError for every other failure.
    """
    _command(["run", workload, "--data-dir", data_dir, *options, "--results-dir", folder, "--run-id", _RUN_ID], (EXIT_OK, EXIT_INVALID))
    return _figures(folder)


def check(folder: str, rules: str, out: str) -> bool:
    """Judge the run, by a rule set where one is given; the verdicts as JSON. False where it did not pass, which ends the pipeline after the report."""
    code, text = _command(["check", f"{folder}/{_RUN_ID}", *(["--rules", rules] if rules else []), "--json"], (EXIT_OK, EXIT_INVALID))
    _write(out, text)
    return code == EXIT_OK


def report(folder: str, html: str) -> dict[str, float]:
    """The run's page in `html`; its figures."""
    Path(html).parent.mkdir(parents=True, exist_ok=True)
    _command(["report", f"{folder}/{_RUN_ID}", "--html", html])
    return _figures(folder)


def _figures(folder: str) -> dict[str, float]:
    summary = json.loads((Path(folder) / _RUN_ID / SUMMARY_FILE).read_bytes())
    return {**figures(summary), "valid": float(bool(summary["valid"]))}


def words(text: str) -> list[str]:
    """Options as a JSON list of words. Raises UsageError."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise UsageError(f"--options {text[:80]!r} is no JSON list of words", 'write it like ["--loader", "direct"]')
    return found


def executor_output(values: Mapping[str, float], name: str) -> str:
    """The file that tells Kubeflow Pipelines the metadata of an artifact `name`: for system.Metrics, the figures that its page shows (kfp.dsl.executor)."""
    return json.dumps({"artifacts": {name: {"artifacts": [{"name": name, "metadata": dict(values)}]}}}) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, and write each output where the component says. The exit code is the run's: 6 where it is invalid, with all outputs written."""
    parser = argparse.ArgumentParser(
        prog="python -m storagebench.export.kfpsteps", description="One measurement, as a component of Kubeflow Pipelines."
    )
    parser.add_argument("--workload", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--options", default="[]", help="further words of `storagebench run`, as a JSON list")
    parser.add_argument("--run-folder", required=True, help="folder for the run folder")
    parser.add_argument("--html", required=True, help="file for the page")
    parser.add_argument("--au", required=True, help="file for the AU, a number; not written where it is not known")
    parser.add_argument("--metrics", required=True, help="file for all figures, as JSON")
    parser.add_argument("--executor-output", help="file for the metadata of the artifact `metrics`")
    given = parser.parse_args(arguments)
    try:
        found = measure(given.workload, given.data_dir, words(given.options), given.run_folder)
        _write(given.metrics, json.dumps(found, indent=1) + "\n")
        if "au" in found:
            _write(given.au, repr(found["au"]))
        if given.executor_output:
            _write(given.executor_output, executor_output(found, "metrics"))
        report(given.run_folder, given.html)
    except StorageBenchError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK if found["valid"] else EXIT_INVALID


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

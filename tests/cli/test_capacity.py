"""`plan --capacity`: figures worked out by hand, what a store can feed, every command of docs/capacity.md, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from storagebench.model.capacity import Checkpoints
from storagebench.model.feeding import around, parse_change
from storagebench.model.reading import shaped_reads
from storagebench.units import parse_per_second, parse_rate

PAGE = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
UNET3D = ("plan", "unet3d", "--accelerator", "h100", "--num-accelerators", "64", "--capacity")


def capacity(cli: Any, *arguments: str) -> dict[str, Any]:
    result = cli(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)["capacity"]
    return found


def by_name(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in figures}


def test_needs_by_hand(cli_here: Any) -> None:
    """unet3d on h100: 64 x 0.9 x 7 / 0.323 s = 1248.3 samples/s of 146600628 bytes; a file of 70 parts of 2 MiB a sample."""
    found = capacity(cli_here, *UNET3D, "--copies", "2", "--checkpoint-bytes", "60GB", "--checkpoint-every", "29min", "--checkpoint-within", "1min")
    needs = by_name(found["needs"])
    samples = 64 * 0.9 * 7 / 0.323
    assert needs["samples"]["value"] == pytest.approx(samples)
    assert needs["bandwidth"]["value"] == pytest.approx(samples * 146600628)
    assert needs["reads"]["value"] == pytest.approx(samples * 70)
    assert needs["opens"]["value"] == pytest.approx(samples)
    assert (needs["files"]["value"], needs["dataset"]["value"]) == (336, 2 * 168 * 146600628)
    assert needs["checkpoint writes"]["value"] == 1e9
    assert needs["AU lost to checkpoints"]["value"] == pytest.approx(1 / 30)
    assert needs["capacity"]["value"] == 2 * 168 * 146600628 + 60e9
    assert (needs["client CPU"]["value"], needs["client CPU"]["origin"]) == (None, "unknown")
    assert all(figure["why"] and figure["origin"] in ("asked", "workload", "computed", "measured", "assumed", "unknown") for figure in found["needs"])
    said = by_name(found["workloads"][0]["figures"])
    assert (said["accelerators"]["origin"], said["accelerators"]["why"]) == ("asked", "--num-accelerators")
    assert said["sample"]["why"].startswith("unet3d.yaml:")
    assert found["feeds"] is None


def test_a_mix_adds_up(cli_here: Any) -> None:
    found = capacity(cli_here, *UNET3D, "--mix", "resnet50@h100=128", "--au", "0.8")
    parts = [by_name(one["figures"]) for one in found["workloads"]]
    needs = by_name(found["needs"])
    assert [one["name"] for one in found["workloads"]] == ["unet3d@h100", "resnet50@h100"]
    for name in ("samples", "bandwidth", "reads", "opens", "dataset", "client memory"):
        assert needs[name]["value"] == pytest.approx(sum(part[name]["value"] for part in parts))
    assert parts[1]["samples"]["value"] == pytest.approx(128 * 0.8 * 400 / 0.224)
    assert parts[1]["files"]["value"] == 1024
    assert parts[1]["accelerators"]["why"] == "--mix"


def test_what_a_store_can_feed(cli_here: Any) -> None:
    """40 GB/s over 0.9 x 3.177 GB/s is 13.99 accelerators: 13; AU at 64 is 40 / (64 x 3.177)."""
    pytest.importorskip("simpy")
    found = capacity(cli_here, *UNET3D, "--store-bandwidth", "40GB/s", "--what-if", "bandwidth=80GB/s", "--what-if", "accelerators=32")["feeds"]
    demand = 7 * 146600628 / 0.323
    assert found["largest"]["by_closed_form"] == 13 and found["largest"]["number"] in (12, 13)
    base = found["base"]
    assert base["au"]["unet3d@h100"] == pytest.approx(40e9 / (64 * demand), abs=0.01)
    assert (base["limited_by"], base["predicted"]) == ("store bandwidth", True)
    assert base["store_bytes_per_s"] == pytest.approx(40e9, rel=0.03)
    assert [row["accelerators"] for row in found["table"]] == sorted({row["accelerators"] for row in found["table"]})
    assert 64 in [row["accelerators"] for row in found["table"]]
    faster, fewer, both = found["what_if"]
    assert faster["au"]["unet3d@h100"] == pytest.approx(fewer["au"]["unet3d@h100"], abs=0.01)
    assert both["question"] == "bandwidth=80GB/s accelerators=32"
    assert both["au"]["unet3d@h100"] == pytest.approx(4 * base["au"]["unet3d@h100"], abs=0.02)


def test_a_cache_helps_from_the_second_epoch_on(cli_here: Any) -> None:
    pytest.importorskip("simpy")
    arguments = (
        "plan",
        "resnet50",
        "--accelerator",
        "h100",
        "--num-accelerators",
        "16",
        "--capacity",
        "--store-bandwidth",
        "1.5GB/s",
        "--shared-cache",
        "73442GB",
    )
    half = str(round(1281024 * 114660 / 2))
    found = capacity(cli_here, *arguments[:-1], half)["feeds"]
    first, later = (found[name]["au"]["resnet50@h100"] for name in ("first_epoch", "base"))
    assert first == pytest.approx(1.5e9 / (16 * 400 * 114660 / 0.224), abs=0.01)
    assert later == pytest.approx(2 * first, abs=0.02)


def test_as_text(cli_here: Any) -> None:
    pytest.importorskip("simpy")
    result = cli_here(*UNET3D, "--store-bandwidth", "40GB/s", "--store-latency", "2ms", "--what-if", "bandwidth=80GB/s")
    assert (result.returncode, result.stderr) == (0, "")
    for line in (
        r"  bandwidth +183 GB/s +\(computed: ", r"  client CPU +unknown +\(unknown: ", r"what it can feed, predicted, not measured \(--store-bandwidth 40GB/s, --store-latency 2ms; ",
        r"  largest number of unet3d@h100: 1[23] at AU 0.90 ", r"  at 64: unet3d@h100 AU 0\.\d+, limited by store bandwidth", r"what if, predicted:", r"  bandwidth=80GB/s +0\.\d+ \(\+0\.\d+\) ",
    ):  # fmt: skip
        assert re.search(f"^{line}", result.stdout, re.MULTILINE), (line, result.stdout)


@pytest.mark.catalogue
def test_the_commands_of_the_page_run(cli: Any, cli_here: Any, tmp_path: Path) -> None:
    pytest.importorskip("simpy")
    commands = [line for block in BLOCKS for line in block.replace("/mnt/", f"{tmp_path}/").replace(" results", f" {tmp_path}/results").splitlines()]
    assert len(commands) >= 6
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "storagebench"
        if words[0] == "run":
            words += ["--null-duration", "0.05", "--headroom-duration", "0.1s", "--epochs", "1"]
        result = (cli if words[0] == "run" else cli_here)(*words)
        assert result.returncode == 0, result.stderr
    assert re.search(r"client CPU +[0-9.]+ cores +\(measured: ", result.stdout)
    assert "latency: the times of" in result.stdout


def test_every_command_stands_in_a_block_that_is_run() -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert fenced == BLOCKS and len(BLOCKS) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--what-if", "disk=2TB"), "--what-if 'disk=2TB' is not one of accelerators=VALUE"),
        (("--what-if", "bandwidth=0"), "--what-if 'bandwidth=0': rate '0' is not above 0"),
        (("--what-if", "accelerators=none"), "'none' is no whole number"),
        (("--what-if", "latency=long"), "duration 'long'"),
        (("--store-bandwidth", "fast"), "rate 'fast' is not bytes or bits per second"),
        (("--store-iops", "0"), "rate '0' is not above 0"),
        (("--mix", "unet4d=2"), "unknown workload 'unet4d'"),
        (("--mix", "resnet50"), "--mix 'resnet50' is not NAME=N"),
        (("--mix", "resnet50=8"), "--mix 'resnet50=8' names no accelerator (resnet50 knows: a100, h100)"),
        (("--mix", "resnet50@v100=8"), "accelerator 'v100' has no compute time in workload resnet50"),
        (("--mix", "unet3d@h100=8"), "unet3d@h100 stands twice"),
        (("--checkpoint-bytes", "1GB"), "checkpoints need --checkpoint-every and --checkpoint-within"),
        (("--checkpoint-bytes", "0", "--checkpoint-every", "1min", "--checkpoint-within", "1s"), "--checkpoint-bytes is 0"),
        (("--host-link", "100Gbit/s"), "how many accelerators it has is not said"),
        (("--host-cores", "64", "--accelerators-per-host", "8"), "what a byte costs of them is not known"),
        (("--request-size", "0"), "--request-size is 0"),
        (("--from-run", "/nowhere"), "/nowhere does not exist"),
        (("--compute-time", "0"), "the compute time of unet3d is 0"),
        (("--rules", "mlperf-storage-v2.0"), "--capacity and --rules are two questions"),
    ],
)
def test_what_is_refused(cli_here: Any, arguments: tuple[str, ...], words: str) -> None:
    result = cli_here(*UNET3D, *arguments)
    assert result.returncode == 2 and words in result.stderr and "\nhint: " in result.stderr, result.stderr


def test_options_of_capacity_need_it(cli_here: Any) -> None:
    result = cli_here("plan", "unet3d", "--accelerator", "h100", "--store-iops", "5k")
    assert result.returncode == 2 and "--store-iops belong to --capacity" in result.stderr


def test_without_simpy(cli: Any, cli_here: Any, tmp_path: Path) -> None:
    """Needs are arithmetic; what a store can feed says what to install."""
    (tmp_path / "simpy.py").write_text("raise ImportError\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    assert cli(*UNET3D, env=environment).returncode == 0
    result = cli(*UNET3D, "--store-bandwidth", "40GB/s", env=environment)
    assert result.returncode == 2 and "hint: pip install 'storagebench[capacity]'" in result.stderr


def test_units_of_rates() -> None:
    assert [parse_rate(text) for text in ("40GB/s", "100Gbit/s", "1GiB", "8Mbit")] == [40e9, 12.5e9, 2**30, 1e6]
    assert [parse_per_second(text) for text in ("500k", "1.5M", "3000/s", "20")] == [500e3, 1.5e6, 3000, 20]


def test_small_parts() -> None:
    assert [shaped_reads(*case) for case in ((1, 8), (8, 4), (490, 128), (400, 8))] == [(8, 1, 1), (4, 8, 1), (2, 8, 62), (1, 50, 8)]
    assert Checkpoints(1e9, 90, 10, 1).share == 0.9
    assert around(100, 64) == [32, 64, 128, 256]
    assert parse_change("cache=2TB").text == "cache=2TB"

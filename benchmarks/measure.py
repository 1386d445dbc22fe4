"""What all benchmarks share: a measurement in a process of its own, a table, and a place in a document."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import duckdb
import jinja2
import yaml

from feature_repo.files import write_whole
from feature_repo.paths import repository_root
from feature_repo.row_groups import set_row_group_size

THREADS = 2
# A quick run is repeated up to so often, as long as all its runs together stay below so many seconds.
_REPEATS = 100
_REPEAT_SECONDS = 20.0


@dataclass(frozen=True)
class Measurement:
    """What one process did: seconds (the median of its runs), peak memory in bytes, and a remark.

    The memory is that of the whole process, with Python and its libraries, as the operating system counts it.
    `seconds` is None when it could not run; the remark then says why.
    """

    seconds: float | None
    peak_bytes: int
    remark: str = ""


class Unavailable(Exception):  # noqa: N818 - it is no error when a peer is not installed
    """A peer cannot be measured on this machine; the message says why."""


def measure_apart(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    seconds_allowed: float | None = None,
) -> Measurement:
    """Run `python -m module arguments`, which calls `report`, with further environment variables.

    A process that takes longer than allowed, or that the system kills, was not measured; the remark says so.
    Raises RuntimeError when the process fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds_allowed)
        except subprocess.TimeoutExpired:
            process.kill()
            return Measurement(None, 0, f"stopped after {seconds_allowed:,.0f} s")
    if process.returncode == -signal.SIGKILL:
        return Measurement(None, 0, "killed: out of memory")
    lines = output.splitlines()
    if process.returncode or not lines:
        raise RuntimeError(f"python -m {module} {' '.join(arguments)} failed.")
    return Measurement(**json.loads(lines[-1]))


def report(prepare: Callable[[], Callable[[], str | None]], repeats: int = _REPEATS) -> None:
    """Time what `prepare` returns, repeated while it is quick, and print the outcome for `measure_apart`.

    The run may return a remark. Unavailable, raised by either, is reported as a remark without a time.
    """
    seconds: list[float] = []
    remark = ""
    try:
        run = prepare()
        while len(seconds) < repeats and sum(seconds) + (seconds[-1] if seconds else 0) <= _REPEAT_SECONDS:
            begin = time.perf_counter()
            remark = run() or ""
            seconds.append(time.perf_counter() - begin)
    except Unavailable as reason:
        remark = str(reason)
    measured = Measurement(median(seconds) if seconds else None, peak_bytes(), remark)
    print(json.dumps(asdict(measured)))


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    # Not getrusage: on Linux its maximum includes the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def connect(database: Path) -> duckdb.DuckDBPyConnection:
    """A database with the settings of profiles.yml, its limit of memory among them, and our row groups."""
    connection = duckdb.connect(str(database), config={"threads": THREADS})
    set_row_group_size(connection)
    for name, value in warehouse_settings().items():
        connection.execute(f"set {name} = '{value}'")
    return connection


def warehouse_settings() -> dict[str, str]:
    """DuckDB's settings in profiles.yml, as they are under this environment."""
    profile = yaml.safe_load((repository_root() / "profiles.yml").read_text())
    warehouse = profile["customer_health"]["outputs"]["duckdb"]
    settings = {**warehouse["config_options"], **warehouse["settings"]}
    return {
        name: jinja2.Template(str(value)).render(env_var=os.environ.get) for name, value in settings.items()
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end name -->` in a document.

    Raises ValueError when the document has no such section.
    """
    before, opening, rest = document.read_text().partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- end {name} -->")
    if not opening or not closing:
        raise ValueError(f"{document} has no section <!-- {name} -->.")
    write_whole(document, f"{before}{opening}{text}\n{closing}{after}")

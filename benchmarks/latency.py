"""How long a look-up takes, in the process and over HTTP, from SQLite and from Redis: `make bench-online`.

All in one run, on the online store of `make run` and on a Redis server that this starts and fills from the
same exports: Feast's get_online_features for 1, 10 and 100 customers with all features beside the bare read
and decode of the same values; then this project's server and Feast's own, with 1, 8 and 32 clients who ask
again as soon as they are answered. Server and clients share the processors of one machine.

The outcome goes into docs/online.md, with a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import yaml
from rich.console import Console
from rich.logging import RichHandler

from benchmarks.measure import markdown_table, write_section
from benchmarks.redis_server import NoRedisError, redis_server
from feature_repo.catalog import ALL_FEATURES_SERVICE, WIDE_RELATION, load_catalog
from feature_repo.paths import feature_repo_dir, repository_root, warehouse_path
from feature_repo.store import (
    StoreError,
    apply,
    configuration_file,
    materialize,
    open_store,
    progress_mark,
    registered_views,
)

log = logging.getLogger(__name__)

SIZES = (1, 10, 100)
CLIENTS = (1, 8, 32)
BAR = 3.0
"""How many times as long as in the process one customer over HTTP may take, in the 99th percentile."""
_SHARES = (0.2, 0.4, 0.4)
"""Shares of the requests that the numbers of clients make."""
_ASKED = 2_000
_DOCUMENT = "docs/online.md"
_PLOT = "docs/online.svg"
_WAYS = {
    "bare": "read and decode, nothing else",
    "feast": "`get_online_features`",
    "json": "the server's look-up with its JSON",
}
_SERVERS = {
    "ours": "`python -m feature_repo serve`",
    "ours_2": "`python -m feature_repo serve --workers 2`",
    "feast": "`feast serve`",
}
Environment = Mapping[str, str]
Measured = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the tables, write them into docs/online.md; exit code 0 unless a request went wrong."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    results: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as directory:
        folder = Path(directory)
        try:
            (folder / "customers.txt").write_text("\n".join(served_customers()))
        except (StoreError, duckdb.Error) as error:
            print(f"There is nothing to look up ({error}); make it with 'make run'.", file=sys.stderr)
            return 1
        sqlite = {"FEAST_FS_YAML_FILE_PATH": str(configuration_file())}
        results["SQLite"] = measure(folder, sqlite, options, tuple(_SERVERS), options.requests)
        try:
            with redis_store(folder) as environment:
                results["Redis"] = measure(folder, environment, options, ("ours",), options.requests // 10)
        except NoRedisError as reason:
            log.warning("left out: Redis, because %s", reason)
    text = outcome(results)
    Console(width=160).print(text, markup=False)
    if options.write:
        write_section(repository_root() / _DOCUMENT, "make bench-online: latency", text)
        plot(results, repository_root() / _PLOT)
    errors = [run["first_error"] for each in _runs(results, *_SERVERS) for run in each if run["errors"]]
    for error in errors:
        print(f"not answered: {error}", file=sys.stderr)
    return 1 if errors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument(
        "--requests",
        type=int,
        default=100_000,
        help="requests to our server with one process from SQLite, over all numbers of clients; a tenth to "
        "the others (default 100,000)",
    )
    parser.add_argument(
        "--look-ups", type=int, default=5_000, help="look-ups of one customer in the process (default 5,000)"
    )
    parser.add_argument("--write", action="store_true", help=f"write the outcome into {_DOCUMENT}")
    return parser


def served_customers() -> list[str]:
    """Customers whom the online store serves, in random order, the same each time.

    Raises ``StoreError`` or ``duckdb.Error`` when the store is not materialized or there is no warehouse.
    """
    marks = {progress_mark(view) for view in registered_views(open_store())}
    mark = marks.pop()
    if marks or mark is None:
        raise StoreError("the online store is not materialized")
    catalog = load_catalog()
    with duckdb.connect(str(warehouse_path()), read_only=True) as connection:
        rows = connection.execute(
            f"""
            select {catalog.entity_key}
            from features.{WIDE_RELATION}
            where {catalog.timestamp} = ?
            order by hash({catalog.entity_key})
            limit {_ASKED}
            """,
            [mark.replace(tzinfo=None)],
        ).fetchall()
    return [customer for (customer,) in rows]


def measure(
    folder: Path,
    environment: Environment,
    options: argparse.Namespace,
    servers: Sequence[str],
    requests: int,
) -> Measured:
    """Look-ups of one online store: `ways` in the process, and the servers over HTTP."""
    customers = str(folder / "customers.txt")
    kind = open_store(Path(environment["FEAST_FS_YAML_FILE_PATH"])).config.online_store.type
    log.info("%s: in the process", kind)
    sizes = [str(size) for size in SIZES]
    ways = ["benchmarks.latency_ways", customers, "--look-ups", str(options.look_ups), "--sizes", *sizes]
    measured: Measured = {"ways": _output_of(ways, environment)}
    for name in servers:
        with server(name, environment, folder) as url:
            runs = []
            for clients, share in zip(CLIENTS, _SHARES, strict=True):
                log.info("%s: %s, %d clients", kind, _SERVERS[name].strip("`"), clients)
                due = int(requests * share) // (1 if name == "ours" else 10)
                client = ["benchmarks.latency_client", url, customers, "--clients", str(clients)]
                what = ["--service", ALL_FEATURES_SERVICE, "--key", load_catalog().entity_key]
                runs.append(_output_of([*client, *what, "--requests", str(due)], environment))
            measured[name] = runs
    return measured


def _output_of(module: Sequence[str], environment: Environment) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *module],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def server(name: str, environment: Environment, folder: Path) -> Iterator[str]:
    """A running server on a free port of this machine; gives its URL. What it logs is in `folder`."""
    port = _free_port()
    if name == "feast":
        # As it comes, but without the restart that it makes after each 1,000 requests, which loses some.
        feast = Path(sys.executable).with_name("feast")
        command = [str(feast), "serve", "--port", str(port), "--no-access-log", "--max-requests", "0"]
    else:
        command = [sys.executable, "-m", "feature_repo", "serve", "--port", str(port)]
        command += ["--workers", "2"] if name == "ours_2" else []
    place = feature_repo_dir() if name == "feast" else repository_root()
    output = folder / f"{name}.log"
    with (
        output.open("w") as stream,
        subprocess.Popen(
            command, cwd=place, env=os.environ | environment, stdout=stream, stderr=stream
        ) as process,
    ):
        try:
            _wait_for(port, process, output)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until the server answers. Raises RuntimeError with what it wrote when it does not in minutes."""
    limit = time.monotonic() + 180
    while time.monotonic() < limit and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=180) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if connection.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The server did not start: {output.read_text()[-2000:]}")


@contextmanager
def redis_store(folder: Path) -> Iterator[Environment]:
    """A Redis server with the exports materialized into it; gives the environment that selects it."""
    with redis_server(folder) as port:
        file = folder / "feature_store.redis.yaml"
        config = yaml.safe_load((feature_repo_dir() / file.name).read_text())
        config["registry"]["path"] = str(folder / "registry.redis.db")
        config["online_store"]["connection_string"] = f"127.0.0.1:{port}"
        file.write_text(yaml.safe_dump(config))
        apply(open_store(file))
        log.info("materializing into Redis")
        materialize(open_store(file))
        yield {"FEAST_FS_YAML_FILE_PATH": str(file)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _runs(results: Mapping[str, Measured], *servers: str) -> list[list[Measured]]:
    return [each[name] for each in results.values() for name in servers if name in each]


def outcome(results: Mapping[str, Measured]) -> str:
    """The tables of docs/online.md and the two sentences about the bar."""
    header = ["in the process"]
    header += [f"{_customers(size)}: {what}" for size in SIZES for what in ("p50", "p99")]
    lines = [
        [f"{store}: {described}", *(_milliseconds(value) for size in SIZES for value in ways[way][str(size)])]
        for store, measured in results.items()
        for way, described in _WAYS.items()
        if (ways := measured["ways"])
    ]
    tables = [markdown_table(header, lines)]
    header = ["over HTTP, one customer a request"]
    header += [
        f"{clients} client{'s' * (clients > 1)}: {what}"
        for clients in CLIENTS
        for what in ("p50", "p99", "requests/s")
    ]
    lines = []
    for store, measured in results.items():
        for name, described in _SERVERS.items():
            cells = []
            for run in measured.get(name, []):
                cells += [_milliseconds(run["p50"]), _milliseconds(run["p99"]), f"{run['per_second']:,.0f}"]
            if cells:
                lines.append([f"{store}: {described}", *cells])
    tables.append(markdown_table(header, lines))
    sentences = []
    for store, measured in results.items():
        bare, http = measured["ways"]["feast"]["1"][1], measured["ours"][0]["p99"]
        sentences.append(
            f"{store}: p99 of one customer over HTTP is {http / bare:.2f} × that of `get_online_features` in "
            f"the process (bar: {BAR:g} ×)."
        )
    ours = [run for runs in _runs(results, "ours", "ours_2") for run in runs]
    requests, errors = (sum(run[what] for run in ours) for what in ("requests", "errors"))
    sentences.append(f"Of {requests:,} requests to our server {errors or 'none'} went wrong.")
    sentences.append(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    return "\n\n".join([*tables, " ".join(sentences), "![Latency](online.svg)"])


def _customers(number: int) -> str:
    return f"{number} customer{'s' * (number > 1)}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms" if value >= 10 else f"{value:.2f} ms"


def plot(results: Mapping[str, Measured], path: Path) -> None:
    """Two panels: look-ups in the process by customers, and over HTTP by clients; p50 to p99 as a line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (inside, over_http) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    colours = {
        ("SQLite", "bare"): "#9fb8d1",
        ("SQLite", "feast"): "#1f4e79",
        ("Redis", "bare"): "#e3b4a8",
        ("Redis", "feast"): "#a33b20",
    }
    for (store, way), colour in colours.items():
        if store in results:
            spans = [results[store]["ways"][way][str(size)] for size in SIZES]
            _spans(inside, SIZES, spans, f"{store}: {_WAYS[way].strip('`')}", colour)
    inside.set(xlabel="customers", title="in the process")
    inside.set_xticks(SIZES, [str(size) for size in SIZES])
    series = {
        ("SQLite", "ours"): "#1f4e79",
        ("SQLite", "ours_2"): "#5b8db8",
        ("Redis", "ours"): "#a33b20",
        ("SQLite", "feast"): "#8a8a8a",
    }
    for (store, name), colour in series.items():
        runs = results.get(store, {}).get(name)
        if runs:
            spans = [(run["p50"], run["p99"]) for run in runs]
            label = f"{store}: {_SERVERS[name].strip('`').removeprefix('python -m ')}"
            _spans(over_http, CLIENTS, spans, label, colour)
    over_http.set(xlabel="clients", title="over HTTP, one customer a request")
    over_http.set_xticks(CLIENTS, [str(clients) for clients in CLIENTS])
    for axes in (inside, over_http):
        axes.set_xticks([], minor=True)
        axes.set_ylabel("milliseconds: median, bar to p99")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _spans(
    axes: Any, places: Sequence[int], spans: Sequence[Sequence[float]], label: str, colour: str
) -> None:
    axes.set(xscale="log", yscale="log")
    medians = [low for low, _ in spans]
    above = [high - low for low, high in spans]
    # Each series a little to the right of the one before, so that the bars do not cover one another.
    shift = 1.05 ** len(axes.containers)
    axes.errorbar(
        [place * shift for place in places],
        medians,
        yerr=[[0.0] * len(above), above],
        marker="o",
        capsize=3,
        linewidth=1.2,
        label=label,
        color=colour,
    )


if __name__ == "__main__":
    sys.exit(main())

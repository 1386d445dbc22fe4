"""``python -m streaming``: keep features, scores and alerts fresh between nights."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import duckdb
from botocore.exceptions import BotoCoreError
from rich.console import Console

from feature_repo.paths import stream_dir
from feature_repo.store import StoreError
from scoring.release import ReleaseError
from streaming.errors import StreamError
from streaming.ledger import Ledger
from streaming.service import Stream
from streaming.sinks import JsonLines, Sink, Sns, Webhook
from streaming.sources import KinesisSource, LinesSource, RedisSource, Source


def main(arguments: list[str] | None = None) -> int:
    """Run until the source ends (files and pipes) or for ever (streams); the exit code is 0 only for an
    end.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("streaming").setLevel(logging.INFO)
    stream = None
    try:
        stream = Stream(options.folder, _sinks(options), variables=json.loads(options.vars))
        source = _source(options, stream.ledger)
        Console(stderr=True).print(
            f"streaming; rows look back from {stream.snapshot} 00:00", highlight=False, soft_wrap=True
        )
        stream.run(source)
        stream.send_alerts()
    except KeyboardInterrupt:
        return 130
    except (StreamError, StoreError, ReleaseError, ValueError, OSError, duckdb.Error, BotoCoreError) as error:
        Console(stderr=True).print(f"[red]streaming:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    finally:
        if stream is not None:
            stream.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streaming",
        description="Keep features, scores and alerts fresh between nights (docs/online.md).",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--file", metavar="PATH", help="JSON lines; - reads stdin, whose position cannot be remembered"
    )
    source.add_argument(
        "--redis", metavar="STREAM", help="a Redis stream, read as the consumer group customer_health"
    )
    source.add_argument(
        "--kinesis", metavar="STREAM", help="a Kinesis stream; boto3 finds region and credentials"
    )
    parser.add_argument("--follow", action="store_true", help="with --file: wait for what is appended")
    parser.add_argument(
        "--redis-url",
        default="redis://localhost:6379",
        metavar="URL",
        help="with --redis: the server (default: %(default)s)",
    )
    parser.add_argument(
        "--alerts",
        action="append",
        default=[],
        metavar="PATH",
        help="append alerts to a file as JSON lines; - prints",
    )
    parser.add_argument("--webhook", action="append", default=[], metavar="URL", help="POST alerts as JSON")
    parser.add_argument(
        "--sns", action="append", default=[], metavar="ARN", help="publish alerts to an SNS topic"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=stream_dir(),
        metavar="PATH",
        help="what the stream remembers (default: STREAM_DIR or data/stream)",
    )
    parser.add_argument(
        "--vars", default="{}", metavar="JSON", help="dbt variables, those of the nightly build"
    )
    return parser


def _sinks(options: argparse.Namespace) -> list[Sink]:
    return [
        *map(JsonLines, options.alerts),
        *map(Webhook, options.webhook),
        *map(Sns, options.sns),
    ]


def _source(options: argparse.Namespace, ledger: Ledger) -> Source:
    if options.redis:
        return RedisSource(options.redis_url, options.redis)
    if options.kinesis:
        return KinesisSource(options.kinesis, ledger)
    path = None if options.file == "-" else Path(options.file)
    return LinesSource(path, ledger, options.follow)


if __name__ == "__main__":
    sys.exit(main())

"""Where alerts go: a file of JSON lines, a webhook, an SNS topic. Each may be told of an alert twice, never
not at all.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from feature_repo.files import sync


class SinkError(Exception):
    """A sink did not take an alert; it will be told again."""


class Sink(Protocol):
    """Somewhere to send alerts."""

    name: str
    """Tells sinks apart in the outbox; the same for the same place after a restart."""

    def send(self, alert_id: str, message: str) -> None:
        """Deliver one alert, a line of JSON. Raises ``SinkError`` when that is not certain."""


class JsonLines:
    """Appends to a file, or prints (``-``)."""

    def __init__(self, path: str) -> None:
        self.name = path if path == "-" else f"file:{Path(path).resolve()}"
        self._path = path

    def send(self, alert_id: str, message: str) -> None:
        """Write a line; it is on the disk when this returns."""
        try:
            if self._path == "-":
                print(message, file=sys.stdout, flush=True)
                return
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            with Path(self._path).open("a", encoding="utf-8") as stream:
                stream.write(f"{message}\n")
                sync(stream)
        except OSError as error:
            raise SinkError(str(error)) from None


class Webhook:
    """POSTs each alert as JSON; the header ``Idempotency-Key`` carries its id."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no web address.")
        self.name = f"webhook:{url}"
        self._url = url
        self._timeout = timeout_seconds

    def send(self, alert_id: str, message: str) -> None:
        """Send; any answer but 2xx counts as not taken."""
        request = urllib.request.Request(
            self._url,
            data=message.encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": alert_id},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout):
                pass
        except (OSError, urllib.error.URLError) as error:
            raise SinkError(str(error)) from None


class Sns:
    """Publishes to an SNS topic; the id is a message attribute, and on a FIFO topic the deduplication id."""

    def __init__(self, topic: str, client: Any = None) -> None:
        import boto3

        self.name = f"sns:{topic}"
        self._topic = topic
        self._client = client or boto3.client("sns")

    def send(self, alert_id: str, message: str) -> None:
        """Publish one message."""
        from botocore.exceptions import BotoCoreError, ClientError

        fifo = (
            {"MessageGroupId": "customer_health", "MessageDeduplicationId": alert_id}
            if self._topic.endswith(".fifo")
            else {}
        )
        try:
            self._client.publish(
                TopicArn=self._topic,
                Message=message,
                MessageAttributes={"alert_id": {"DataType": "String", "StringValue": alert_id}},
                **fifo,
            )
        except (BotoCoreError, ClientError) as error:
            raise SinkError(str(error)) from None

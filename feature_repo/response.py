"""The JSON form of Feast's answer to a look-up, made out of its protobuf.

The same document as Feast's own ``convert_response_to_dict`` makes, in a quarter of its time: that function
formats the time stamp of every single value, although a view has one a customer.
"""

from __future__ import annotations

from typing import Any

from feast.feature_server_utils import convert_response_to_dict
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from pydantic_core import to_json

Document = dict[str, Any]

_STATUSES = {number: name for name, number in FieldStatus.items()}
_SCALARS = frozenset(
    ("double_val", "float_val", "int32_val", "int64_val", "string_val", "bool_val", "null_val", None)
)


def response_document(response: GetOnlineFeaturesResponse) -> Document:
    """The response as Feast's feature server answers it, ready for ``json_bytes``.

    Floats that are not finite stay floats here; ``json_bytes`` writes them as Feast does.
    """
    times: dict[tuple[int, int], str] = {}
    results = []
    for vector in response.results:
        values = []
        for value in vector.values:
            kind = value.WhichOneof("val")
            if kind not in _SCALARS:
                # Lists, maps, bytes: Feast knows how; none of our features is one.
                return convert_response_to_dict(response)
            values.append(None if kind is None or kind == "null_val" else getattr(value, kind))
        result: Document = {
            "values": values,
            "statuses": [_STATUSES.get(status, "INVALID") for status in vector.statuses],
        }
        stamps = []
        for time in vector.event_timestamps:
            key = (time.seconds, time.nanos)
            text = times.get(key)
            if text is None:
                text = times[key] = time.ToJsonString()
            stamps.append(text)
        if stamps:
            result["event_timestamps"] = stamps
        results.append(result)
    document: Document = {"results": results}
    if response.HasField("metadata"):
        names = list(response.metadata.feature_names.val)
        document["metadata"] = {"feature_names": names}
        versions = [_version(view) for view in response.metadata.feature_view_metadata]
        if versions:
            document["metadata"]["feature_view_metadata"] = versions
    if response.status:
        document["status"] = response.status
    return document


def json_bytes(document: Document) -> bytes:
    """The document as JSON in UTF-8; floats in the shortest form that reads back as the same 64 bits."""
    return to_json(document, inf_nan_mode="strings")


def _version(view: Any) -> Document:
    entry: Document = {}
    if view.name:
        entry["name"] = view.name
    if view.version:
        entry["version"] = view.version
    return entry

"""Feast's wire format of entity keys and values, a column at a time.

Feast makes a protobuf message of every single value; nearly all the time of its materialization goes there.
The bytes of a column follow from its Arrow data: those of a double are a tag and its eight bytes, those of
anything else are made once for each distinct value, by Feast itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import Value, ValueType
from feast.type_map import python_values_to_proto_values
from feast.types import Float64
from feast.value_type import ValueType as FeastValueType

KEY_VERSION = 3
"""The `entity_key_serialization_version` that `entity_keys` writes."""

_FIXED64 = 1
_DOUBLE = np.dtype([("tag", "u1"), ("value", "<f8")])
_DOUBLE_TAG = Value.DESCRIPTOR.fields_by_name["double_val"].number << 3 | _FIXED64


@dataclass(frozen=True)
class EncodedColumn:
    """The values of one feature, row by row."""

    values: list[bytes]
    """Serialized `Value` messages; empty for a null, as Feast has it."""
    texts: list[str | None]
    """The column `value_text` of Feast's SQLite store; empty when it was not asked for."""


def entity_keys(join_key: str, values: list[str]) -> list[bytes]:
    """Serialized entity keys, version 3, of an entity with one string join key."""
    head = serialize_entity_key_prefix([join_key], KEY_VERSION) + struct.pack("<I", ValueType.STRING)
    encoded = (value.encode() for value in values)
    return [head + struct.pack("<I", len(value)) + value for value in encoded]


def entity_of(key: bytes, join_key: str) -> str:
    """The value of the join key in such a serialized entity key."""
    head = len(serialize_entity_key_prefix([join_key], KEY_VERSION)) + 4
    (length,) = struct.unpack_from("<I", key, head)
    return key[head + 4 : head + 4 + length].decode()


def encode_column(column: pa.Array, value_type: FeastValueType, texts: bool = False) -> EncodedColumn:
    """The column as Feast would write it, value by value; NaN counts as null, as in Feast.

    `texts`: also as text, for SQLite.
    """
    is_double = value_type == Float64.to_value_type()
    if is_double:
        # By their bits, because 0.0 and -0.0 are equal.
        column = pa.compute.if_else(pa.compute.is_nan(column), None, column).view(pa.int64())
    encoded = column.dictionary_encode()
    distinct, indices = encoded.dictionary, encoded.indices
    if is_double and 2 * len(distinct) > len(column):  # hardly any value repeats
        distinct, indices = column, None
    known = distinct.fill_null(0).to_numpy().view(np.float64) if is_double else distinct.to_pylist()
    values = _doubles(known) if is_double else _values(known, value_type)
    words = _texts(known) if texts else []
    if indices is None:
        if column.null_count:
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
                values[row] = b""
                if words:
                    words[row] = None
        return EncodedColumn(values, words)
    # What comes last stands for null.
    positions = indices.fill_null(len(values)).to_numpy()
    return EncodedColumn(
        _taken([*values, b""], positions), _taken([*words, None], positions) if texts else words
    )


def _doubles(values: np.ndarray) -> list[bytes]:
    messages = np.empty(len(values), _DOUBLE)
    messages["tag"] = _DOUBLE_TAG
    messages["value"] = values
    return messages.view(f"V{_DOUBLE.itemsize}").tolist()


def _values(values: list[Any], value_type: FeastValueType) -> list[bytes]:
    return [message.SerializeToString() for message in python_values_to_proto_values(values, value_type)]


def _texts(values: np.ndarray | list[Any]) -> list[str | None]:
    return list(map(str, values.tolist() if isinstance(values, np.ndarray) else values))


def _taken(objects: list[Any], positions: np.ndarray) -> list[Any]:
    array = np.empty(len(objects), object)
    array[:] = objects
    return array[positions].tolist()

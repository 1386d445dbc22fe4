"""Struct arrays of feature rows, as scoring/compiled.py reads them: by address, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from scoring.compiled import FLOAT32, FLOAT64, INT32, INT64, Columns, find_incomplete

# How a column is stored: Arrow type → number in Columns.storage.
_STORAGE = {pa.float64(): FLOAT64, pa.float32(): FLOAT32, pa.int32(): INT32, pa.int64(): INT64}


def incomplete_rows(columns: Columns, address: int, count: int) -> np.ndarray | None:
    """Which rows of the array at `address` are null or have a null that they must not have; None: no row."""
    incomplete = np.zeros(count, dtype=np.bool_)
    return incomplete if find_incomplete(address, columns.required, incomplete) else None


class ArrowAddress:
    """The address of an array's structure in Arrow's C data interface, valid within a `with` block.

    So all columns are reached by one call from Python, and read where they lie.
    """

    def __init__(self, array: pa.Array) -> None:
        self._capsules = array.__arrow_c_array__()

    def __enter__(self) -> int:
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        return get_pointer(self._capsules[1], b"arrow_array")

    def __exit__(self, *exception: object) -> None:
        del self._capsules  # releases the structure


def find_columns(rows: pa.StructType, features: Sequence[str], required: Sequence[str]) -> Columns:
    """Where arrays of a type hold the features and the required fields.

    Raises ValueError for a field that is missing, or a feature that is not stored as a number.
    """
    for name in dict.fromkeys((*features, *required)):
        if rows.get_field_index(name) < 0:
            raise ValueError(f"The rows have no single field '{name}', which the models need.")
    for name in features:
        if rows.field(name).type not in _STORAGE:
            raise ValueError(
                f"The field '{name}' has type {rows.field(name).type}, and scoring reads "
                f"{', '.join(map(str, _STORAGE))}."
            )
    return Columns(
        children=np.array([rows.get_field_index(name) for name in features], dtype=np.int64),
        storage=np.array([_STORAGE[rows.field(name).type] for name in features], dtype=np.int64),
        required=np.array([rows.get_field_index(name) for name in required], dtype=np.int64),
    )

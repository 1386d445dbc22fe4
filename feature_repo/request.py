"""What a client may ask of the feature server: the form, its limits, and a sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.serving import shown

MAX_CUSTOMERS = 1_000
"""Customers in one request: more belong to the warehouse. Feast takes about half a second for so many."""
MAX_ID_LENGTH = 256
MAX_BODY_BYTES = 1 << 20

CustomerId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]


class InvalidRequest(Exception):  # noqa: N818 - as the exceptions of serving
    """The body is JSON but not of the form that the server takes; the message is one sentence."""


class MalformedJson(Exception):  # noqa: N818
    """The body is not JSON; the message is one sentence."""


class OnlineFeaturesRequest(BaseModel):
    """The body of POST /get-online-features, as Feast's own server takes it, without its leniencies."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entities: dict[str, Annotated[list[CustomerId], Field(min_length=1, max_length=MAX_CUSTOMERS)]]
    feature_service: str | None = None
    features: list[str] = []
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


def parse_request(body: bytes, key: str) -> tuple[list[str], OnlineFeaturesRequest]:
    """The customers and the request in a body whose entities are given by ``key``.

    Raises ``MalformedJson`` or ``InvalidRequest``.
    """
    try:
        request = OnlineFeaturesRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise MalformedJson(f"The body is not valid JSON: {reason}.") from None
        raise InvalidRequest(_sentence(first)) from None
    if set(request.entities) != {key}:
        names = ", ".join(map(shown, list(request.entities)[:3])) or "none"
        raise InvalidRequest(f"entities must have the one key {shown(key)}, not {names}.")
    if request.feature_service is None and not request.features:
        raise InvalidRequest("Give a feature_service, or features as view:feature.")
    if request.feature_service is not None and request.features:
        raise InvalidRequest("Give either a feature_service or features, not both.")
    if len(set(request.features)) < len(request.features):
        twice = next(name for name in request.features if request.features.count(name) > 1)
        raise InvalidRequest(f"features names {shown(twice)} more than once.")
    return request.entities[key], request


_KINDS = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "bool_type": "true or false",
}


def _sentence(error: Any) -> str:
    kind, where, context = error["type"], _place(error["loc"]), error.get("ctx", {})
    if kind in _KINDS:
        return f"{where} must be {_KINDS[kind]}."
    if kind == "missing":
        return f"{where} is missing."
    if kind == "extra_forbidden":
        return f"There is no field {where} in a request."
    if kind == "too_long":
        return f"{where} must have at most {context['max_length']:,} items, not {context['actual_length']:,}."
    if kind == "too_short":
        return f"{where} must not be empty."
    if kind == "string_too_short":
        return f"{where} must not be an empty string."
    if kind == "string_too_long":
        return f"{where} must have at most {context['max_length']} characters."
    return f"{where}: {error['msg']}."


def _place(location: Sequence[str | int]) -> str:
    """``entities.customer_id[3]``; names of the client's own are quoted and cut."""
    if not location:
        return "The body"
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if step.isidentifier() and len(step) <= 60 else shown(step)
            text += f".{name}" if text else name
    return text

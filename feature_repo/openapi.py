"""The OpenAPI document of the feature server."""

from __future__ import annotations

from typing import Any

from feature_repo.request import MAX_BODY_BYTES, MAX_CUSTOMERS, MAX_ID_LENGTH
from feature_repo.serving import OnlineLookup

Schema = dict[str, Any]


def openapi_document(lookup: OnlineLookup, with_token: bool) -> Schema:
    """OpenAPI 3.1 of what the server answers with the features that are registered now."""
    look_up: Schema = {
        "operationId": "get_online_features",
        "summary": "The features that are served now for customers, by id",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _request(lookup)}},
        },
        "responses": {
            "200": _response("The values, one result a feature, in the order of the names", _ANSWER),
            "400": _response("The body is not JSON", _ERROR),
            "404": _response(
                "No such feature service, feature view or feature; or nothing is served for some of the "
                "customers, who are listed",
                _ERROR,
            ),
            "413": _response(f"The body has more than {MAX_BODY_BYTES:,} bytes", _ERROR),
            "415": _response("The body is not sent as application/json", _ERROR),
            "422": _response("The body is JSON, but not of this form", _ERROR),
            "503": _response("The feature store cannot answer at the moment", _ERROR),
        },
    }
    health: Schema = {
        "operationId": "health",
        "summary": "Whether the server runs; it does not ask the online store",
        "responses": {"200": _response("It runs", _HEALTH)},
    }
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Online features of {lookup.project}",
            "version": "1",
            "description": "Read-only. The requests and answers are those of Feast's feature server.",
        },
        "paths": {"/get-online-features": {"post": look_up}, "/health": {"get": health}},
    }
    if with_token:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        look_up["security"] = [{"token": []}]
        look_up["responses"]["401"] = _response("The token is missing or wrong", _ERROR)
    return document


def _request(lookup: OnlineLookup) -> Schema:
    customers: Schema = {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        "minItems": 1,
        "maxItems": MAX_CUSTOMERS,
    }
    # An empty enum is not allowed: with nothing registered, any name is answered with 503.
    service: Schema = {"type": "string"} | ({"enum": list(lookup.services)} if lookup.services else {})
    feature: Schema = {"type": "string"} | ({"enum": list(lookup.features)} if lookup.features else {})
    common: Schema = {
        "entities": {
            "type": "object",
            "properties": {lookup.key: customers},
            "required": [lookup.key],
            "additionalProperties": False,
        },
        "full_feature_names": {
            "type": "boolean",
            "default": False,
            "description": "Names in the answer are view__feature",
        },
        "include_feature_view_version_metadata": {"type": "boolean", "default": False},
    }
    by_service: Schema = {
        "type": "object",
        "properties": common | {"feature_service": service, "features": {"type": "array", "maxItems": 0}},
        "required": ["entities", "feature_service"],
        "additionalProperties": False,
    }
    by_features: Schema = {
        "type": "object",
        "properties": common
        | {
            "feature_service": {"type": "null"},
            "features": {"type": "array", "items": feature, "minItems": 1, "uniqueItems": True},
        },
        "required": ["entities", "features"],
        "additionalProperties": False,
    }
    return {"anyOf": [by_service, by_features]}


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "One sentence"},
        "unknown_customers": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "Every customer in the request for whom nothing is served",
        },
    },
    "required": ["error"],
    "additionalProperties": False,
}
_HEALTH: Schema = {
    "type": "object",
    "properties": {"status": {"const": "up"}},
    "required": ["status"],
    "additionalProperties": False,
}
_RESULT: Schema = {
    "type": "object",
    "properties": {
        "values": {
            "type": "array",
            "items": {"type": ["number", "string", "boolean", "null", "array", "object"]},
            "description": "One a customer",
        },
        "statuses": {
            "type": "array",
            "items": {"enum": ["INVALID", "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]},
        },
        "event_timestamps": {
            "type": "array",
            "items": {"type": "string", "format": "date-time"},
            "description": "When the value was true: the time of its snapshot",
        },
    },
    "required": ["values", "statuses"],
    "additionalProperties": False,
}
_ANSWER: Schema = {
    "type": "object",
    "properties": {
        "metadata": {
            "type": "object",
            "properties": {
                "feature_names": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "feature_view_metadata": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "version": {"type": "integer"}},
                    },
                },
            },
            "required": ["feature_names"],
            "additionalProperties": False,
        },
        "results": {"type": "array", "items": _RESULT, "minItems": 1},
        "status": {"type": "boolean"},
    },
    "required": ["metadata", "results"],
    "additionalProperties": False,
}

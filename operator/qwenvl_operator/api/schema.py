"""Pydantic models -> structural OpenAPI v3 schemas, the form that a CustomResourceDefinition wants.

Only what this API uses is translated. Anything else is refused by name here, instead of being found out by an API
server.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
Definitions = dict[str, Schema]

# In the order in which they are written.
_KEPT = (
    "description",
    "type",
    "x-kubernetes-int-or-string",
    "format",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "maxItems",
    "maxProperties",
    "items",
    "additionalProperties",
    "properties",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
_NULL = {"type": "null"}
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class UnsupportedSchemaError(TypeError):
    """A model uses something that a structural schema cannot say."""


def structural_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model and of everything in it, without references. Raises UnsupportedSchemaError."""
    document = model.model_json_schema()
    return _structural(document, document.pop("$defs", {}), model.__name__)


def _structural(node: Schema, definitions: Definitions, path: str) -> Schema:
    node, definitions = _resolved(node, definitions, path)
    node.pop("title", None)
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if unknown := node.keys() - set(_KEPT):
        raise UnsupportedSchemaError(f"{path}: a structural schema has no {', '.join(sorted(unknown))}")
    default = _lean(node.pop("default", None))
    if default not in _EMPTY or (default == {} and "properties" in node):
        node["default"] = default
    if "properties" in node:
        # Closed models stay open here: the API server prunes what it does not know, or refuses it if asked to.
        node.pop("additionalProperties", None)
        node["properties"] = {
            name: _structural(child, definitions, f"{path}.{name}") for name, child in node["properties"].items()
        }
    elif isinstance(values := node.get("additionalProperties"), bool):
        raise UnsupportedSchemaError(f"{path}: say what the object holds (additionalProperties is {values})")
    elif values is not None:
        node["additionalProperties"] = _structural(values, definitions, f"{path}.*")
    if "items" in node:
        node["items"] = _structural(node["items"], definitions, f"{path}[]")
        node.setdefault("x-kubernetes-list-type", "atomic")
    return {keyword: node[keyword] for keyword in _KEPT if keyword in node}


def _resolved(node: Schema, definitions: Definitions, path: str) -> tuple[Schema, Definitions]:
    """A copy without reference and null: an absent field says the same as null, so `X | None` is X.

    Returned with it is what may still be referred to below: not what was just inlined, for no schema holds itself.
    """
    node = dict(node)
    while True:
        if "$ref" in node:
            name = node.pop("$ref").rpartition("/")[2]
            if name not in definitions:
                raise UnsupportedSchemaError(f"{path}: {name} contains itself")
            node = {**definitions[name], **node}
            definitions = {key: value for key, value in definitions.items() if key != name}
        elif _NULL in node.get("anyOf", ()) and len(node["anyOf"]) == 2:
            (member,) = (member for member in node.pop("anyOf") if member != _NULL)
            node = {**member, **node}
        elif "const" in node:
            node["enum"] = [node.pop("const")]
        else:
            return node, definitions


def _lean(default: Any) -> Any:
    """Without what is empty: that says as much as an absent field, and would only be noise in every stored object."""
    if not isinstance(default, dict):
        return default
    return {name: lean for name, value in default.items() if (lean := _lean(value)) not in _EMPTY}

"""The reference page: the OpenAPI document as one HTML page that fetches nothing but its style.

No script runs on it; sections open and close by themselves, and the address of an operation is
`/docs#<its id>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

Json = Mapping[str, Any]

CSP: Final = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_EXAMPLE_ID: Final = "0199f3a4-0b7d-7f60-8a51-64a1c9a0d7e2"
# What a reader wants to know of a schema beside its type, in this order.
_RULES: Final = (
    ("format", "{}"),
    ("pattern", "matches {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minimum", "from {}"),
    ("maximum", "to {}"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} pairs"),
    ("const", "always {}"),
    ("default", "default {}"),
)


def page(document: Json) -> str:
    """The whole page of a document."""
    info, operations = document["info"], list(_operations(document))
    tags = document["tags"]
    contents = "".join(
        f"<li><a href='#{_anchor(tag['name'])}'>{escape(tag['name'])}</a><ul>"
        + "".join(
            f"<li><a href='#{each['operationId']}'>{escape(each['summary'])}</a></li>"
            for _, _, each in operations
            if tag["name"] in each["tags"]
        )
        + "</ul></li>"
        for tag in tags
    )
    sections = "".join(
        f"<section id='{_anchor(tag['name'])}'><h2>{escape(tag['name'])}</h2>"
        f"{_prose(tag.get('description', ''))}"
        + "".join(
            _operation(document, method, path, each)
            for method, path, each in operations
            if tag["name"] in each["tags"]
        )
        + "</section>"
        for tag in tags
    )
    schemas = "".join(
        f"<details><summary><code>{name}</code></summary><div id='schema-{name}'>"
        f"{_schema(schema)}</div></details>"
        for name, schema in document["components"]["schemas"].items()
    )
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title} – API reference</title>"
        "<link rel='stylesheet' href='/docs/reference.css'></head><body>"
        f"<nav aria-label='Contents'><p><a href='#top'><strong>{title}</strong></a></p>"
        f"<ul>{contents}<li><a href='#schemas'>Schemas</a></li></ul></nav>"
        f"<main id='top'><h1>{title}</h1><p>{escape(info['summary'])}</p>"
        f"{_prose(info['description'])}"
        "<p>The same as a machine reads it: <a href='/openapi.json'>openapi.json</a> "
        f"(OpenAPI {escape(document['openapi'])}).</p>"
        f"{sections}<section id='schemas'><h2>Schemas</h2>{schemas}</section></main></body></html>"
    )


def _anchor(tag: str) -> str:
    return "tag-" + "-".join(tag.lower().split())


def _operations(document: Json) -> Iterable[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    parameters = [_resolved(document, each) for each in operation["parameters"]]
    body = operation.get("requestBody")
    return (
        "<details><summary>"
        f"<span class='method {method.lower()}'>{method}</span> <code>{escape(path)}</code> "
        f"<span>{escape(operation['summary'])}</span></summary>"
        f"<div id='{operation['operationId']}'>"
        f"{_prose(operation.get('description', ''))}{_parameters(parameters)}"
        f"{_body(document, body) if body else ''}"
        f"{_answers(document, operation['responses'])}"
        f"<h4>Try it</h4><pre><code>{escape(_curl(document, method, path, operation))}</code></pre>"
        "</div></details>"
    )


def _parameters(parameters: Iterable[Json]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{_kind(each['schema'])}{' – required' if each.get('required') else ''}</td>"
        f"<td>{_inline(each.get('description', ''))}</td></tr>"
        for each in parameters
    )
    head = "<tr><th>Name</th><th>In</th><th>Value</th><th>What it does</th></tr>"
    return f"<h4>Parameters</h4>{_table(head, rows)}" if rows else ""


def _body(document: Json, body: Json) -> str:
    kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
    schema = next(iter(body["content"].values()))["schema"]
    needed = "required" if body.get("required") else "optional"
    return (
        f"<h4>Body</h4><p>{kinds}, {needed}: {_kind(schema)}</p>"
        f"{_schema(_resolved(document, schema))}"
    )


def _answers(document: Json, responses: Json) -> str:
    rows = ""
    for status, each in responses.items():
        response = _resolved(document, each)
        kinds = "".join(
            f"{_kind(media['schema'])} <small>{escape(kind)}</small><br>"
            for kind, media in response.get("content", {}).items()
        )
        headers = ", ".join(f"<code>{escape(name)}</code>" for name in response.get("headers", {}))
        rows += (
            f"<tr><td>{status}</td><td>{_inline(response['description'])}</td>"
            f"<td>{kinds}</td><td>{headers}</td></tr>"
        )
    head = "<tr><th>Status</th><th>Meaning</th><th>Body</th><th>Headers</th></tr>"
    return f"<h4>Answers</h4>{_table(head, rows)}"


def _schema(schema: Json) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        f"<td>{_kind(each)}{' – required' if name in required else ''}</td>"
        f"<td>{_rules(each)}</td></tr>"
        for name, each in schema.get("properties", {}).items()
    )
    head = "<tr><th>Member</th><th>Type</th><th>Rules</th></tr>"
    example = "".join(
        f"<pre><code>{escape(json.dumps(each, indent=2, ensure_ascii=False))}</code></pre>"
        for each in schema.get("examples", ())
    )
    return (
        _prose(schema.get("description", ""))
        + (_table(head, rows) if rows else f"<p>{_kind(schema)}. {_rules(schema)}</p>")
        + example
    )


def _kind(schema: Json) -> str:
    """The type of a value in a few words, with links to the named schemas."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name}</a>"
    if "allOf" in schema:
        return _kind(schema["allOf"][0])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "type" not in schema:
        return " or ".join(_kind(each) for each in schema.get("anyOf", ())) or "anything"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if kinds == ["array"]:
        return f"list of {_kind(schema['items'])}"
    if kinds == ["object"] and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_kind(schema['additionalProperties'])}"
    return " or ".join(kinds)


def _rules(schema: Json) -> str:
    found = [
        words.format(f"<code>{escape(json.dumps(schema[name], ensure_ascii=False))}</code>")
        for name, words in _RULES
        if name in schema
    ]
    about = _inline(schema.get("description", ""))
    return " ".join(part for part in (about, ", ".join(found)) if part)


def _curl(document: Json, method: str, path: str, operation: Json) -> str:
    target, query = path, []
    for each in operation["parameters"]:
        parameter = _resolved(document, each)
        if parameter["in"] == "path":
            target = target.replace(f"{{{parameter['name']}}}", _EXAMPLE_ID)
        elif parameter["in"] == "query" and parameter.get("required"):
            query.append(f"{parameter['name']}={parameter['schema'].get('examples', ['…'])[0]}")
    url = f"http://localhost:8000{target}"
    lines = ["curl"] if method == "GET" else [f"curl -X {method}"]
    lines[0] += f" -G '{url}'" if query else f" '{url}'"
    lines += [f"  --data-urlencode '{each}'" for each in query]
    if {} not in operation["security"] and operation["security"]:
        lines.append('  -H "Authorization: Bearer $TOKEN"')
    if body := operation.get("requestBody"):
        kind, media = next(iter(body["content"].items()))
        example = _resolved(document, media["schema"]).get("examples", [{}])[0]
        data = json.dumps(example, ensure_ascii=False).replace("'", r"'\''")
        lines += [f"  -H 'Content-Type: {kind}'", f"  -d '{data}'"]
    return " \\\n".join(lines)


def _resolved(document: Json, item: Json) -> Json:
    found: Any = item
    while "$ref" in found:
        path, found = found["$ref"].removeprefix("#/").split("/"), document
        for name in path:
            found = found[name]
    return dict(found)


def _table(head: str, rows: str) -> str:
    return f"<div class='wide'><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(each)}</p>" for each in text.split("\n\n") if each)


def _inline(text: str) -> str:
    """Escaped text in which `code` stands as code."""
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)
    )

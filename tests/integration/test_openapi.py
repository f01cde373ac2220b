"""The document says what the endpoints are, and the page shows all of it without the internet."""

import json
from html.parser import HTMLParser

import jsonschema_rs
import pytest
import schemathesis

from savannah.domain.errors import SavannahError
from savannah.entrypoints.http import openapi, problems
from savannah.entrypoints.http.operations import OPERATION

DOCUMENT = openapi.document()
OPERATIONS = {
    each["operationId"]: (method, path, each)
    for path, item in DOCUMENT["paths"].items()
    for method, each in item.items()
}
SCHEMAS = DOCUMENT["components"]["schemas"]


def every(node, wanted):
    """The values of all members of that name, wherever they are."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == wanted:
                yield value
            yield from every(value, wanted)
    elif isinstance(node, list):
        for value in node:
            yield from every(value, wanted)


def resolved(item):
    while "$ref" in item:
        found = DOCUMENT
        for name in item["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        item = found
    return item


def with_components(schema):
    return {**schema, "components": DOCUMENT["components"]}


def test_the_served_document_is_the_one_that_needs_no_application(desk):
    answer = desk.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"] == "Savannah"
    assert DOCUMENT["servers"] == [{"url": "/"}]


def test_every_handler_that_declares_an_operation_is_in_the_document(desk):
    declared = {
        handler.opt[OPERATION].id
        for route in desk.app.routes
        for handler in getattr(route, "route_handlers", ())
        if OPERATION in handler.opt
    }
    assert declared == set(OPERATIONS)


def test_every_api_route_declares_an_operation(desk):
    for route in desk.app.routes:
        if route.path.startswith("/api/"):
            for handler in route.route_handlers:
                methods = handler.http_methods - {"OPTIONS"}
                assert OPERATION in handler.opt or not methods, route.path


def test_paths_of_the_api_end_in_a_slash():
    assert [p for p in DOCUMENT["paths"] if p.startswith("/api/") and not p.endswith("/")] == []


def test_operations_have_their_own_name_a_summary_and_a_declared_tag():
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, _, operation in OPERATIONS.values():
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
    assert len(OPERATIONS) == sum(len(item) for item in DOCUMENT["paths"].values())
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_every_reference_leads_somewhere():
    references = list(every(DOCUMENT, "$ref"))
    assert references
    for reference in references:
        assert resolved({"$ref": reference})


def test_every_schema_is_a_json_schema_of_draft_2020_12():
    schemas = [*every(DOCUMENT, "schema"), *SCHEMAS.values()]
    for schema in schemas:
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        jsonschema_rs.meta.validate(whole)
        jsonschema_rs.Draft202012Validator(with_components(schema))


def test_schemathesis_reads_every_operation():
    loaded = schemathesis.openapi.from_dict(DOCUMENT)
    names = {each.ok().definition.raw["operationId"] for each in loaded.get_all_operations()}
    assert names == set(OPERATIONS)


@pytest.mark.parametrize("name", sorted(n for n, s in SCHEMAS.items() if "examples" in s))
def test_an_example_follows_its_own_schema(name):
    schema = with_components({**SCHEMAS[name], "unevaluatedProperties": False})
    for example in SCHEMAS[name]["examples"]:
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(example)


def test_every_json_body_of_customers_and_orders_shows_an_example():
    for _, path, operation in OPERATIONS.values():
        if path.startswith(("/api/customers", "/api/orders")) and "requestBody" in operation:
            for media in operation["requestBody"]["content"].values():
                assert resolved(media["schema"]).get("examples"), operation["operationId"]


def test_parameter_examples_follow_their_schema():
    seen = 0
    for _, _, operation in OPERATIONS.values():
        for parameter in map(resolved, operation["parameters"]):
            for example in parameter["schema"].get("examples", ()):
                validator = jsonschema_rs.Draft202012Validator(
                    parameter["schema"], validate_formats=True
                )
                validator.validate(example)
                seen += 1
    assert seen


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_refusals_are_problem_documents_with_the_codes_of_their_status(name):
    _, _, operation = OPERATIONS[name]
    answers = operation["responses"]
    assert {"400", "500", "503"} <= set(answers)
    if any("bearer" in each for each in operation["security"]):
        assert {"401", "403", "429"} <= set(answers)
    for status, reference in answers.items():
        answer = resolved(reference)
        assert "X-Request-ID" in answer["headers"]
        if status.startswith(("4", "5")) and "$ref" in reference:
            assert set(answer["content"]) == {"application/problem+json"}
            _, narrowed = answer["content"]["application/problem+json"]["schema"]["allOf"]
            assert narrowed["properties"]["status"] == {"const": int(status)}
            assert narrowed["properties"]["code"]["enum"]


def test_every_code_of_the_error_tree_is_documented_under_its_status():
    def leaves(kind):
        yield kind
        for each in kind.__subclasses__():
            yield from leaves(each)

    for kind in leaves(SavannahError):
        if kind.code == SavannahError.code:
            continue  # a family
        status = next(status for base, status in problems.STATUS_OF if issubclass(kind, base))
        answer = DOCUMENT["components"]["responses"][f"Problem{status}"]
        _, narrowed = answer["content"]["application/problem+json"]["schema"]["allOf"]
        assert kind.code in narrowed["properties"]["code"]["enum"]
    documented = {
        code
        for answer in DOCUMENT["components"]["responses"].values()
        for code in answer["content"]["application/problem+json"]["schema"]["allOf"][1][
            "properties"
        ]["code"]["enum"]
    }
    # The path itself is unknown to the document where the method is not allowed.
    assert documented | {"method_not_allowed"} == set(problems.TITLES)


def test_the_extra_members_of_problems_are_those_of_the_error_tree():
    def extras(kind):
        yield from kind.extras
        for each in kind.__subclasses__():
            yield from extras(each)

    always = {"type", "title", "status", "code", "detail", "instance", "request_id", "errors"}
    assert set(SCHEMAS["Problem"]["properties"]) == always | set(extras(SavannahError))


def test_the_permission_of_an_operation_stands_in_its_security():
    _, _, operation = OPERATIONS["deleteOrder"]
    assert operation["security"] == [{"bearer": ["orders:delete"]}]
    assert operation["x-required-scope"] == "orders:delete"
    assert "`orders:delete`" in operation["description"]
    assert OPERATIONS["login"][2]["security"] == []


def test_a_patch_and_nothing_else_may_say_that_it_is_a_merge_patch():
    for method, _, each in OPERATIONS.values():
        media = set(each.get("requestBody", {}).get("content", ()))
        assert ("application/merge-patch+json" in media) is (method == "patch"), each


def test_a_merge_patch_requires_nothing_and_promises_no_defaults():
    merges = [
        each
        for method, _, each in OPERATIONS.values()
        if method == "patch" and each["operationId"] != "updateOrderStatus"
    ]
    assert {"updateCustomer", "updateOrder"} <= {each["operationId"] for each in merges}
    for operation in merges:
        media = operation["requestBody"]["content"]
        schema = resolved(media["application/json"]["schema"])
        assert "required" not in schema
        assert schema["additionalProperties"] is False
        assert not list(every(schema["properties"], "default"))
        jsonschema_rs.Draft202012Validator(with_components(schema)).validate({})


def test_bodies_require_what_the_rules_require():
    assert SCHEMAS["CustomerIn"]["required"] == ["name", "phone_number"]
    assert SCHEMAS["OrderIn"]["required"] == ["customer", "item", "amount"]
    assert SCHEMAS["StatusChange"]["required"] == ["status"]
    assert OPERATIONS["cancelOrder"][2]["requestBody"]["required"] is False
    assert OPERATIONS["createOrder"][2]["requestBody"]["required"] is True


@pytest.mark.parametrize(
    ("amount", "sound"),
    [
        ("999.99", True),
        ("1", True),
        ("0.01", True),
        ("000.10", True),
        ("99999999.99", True),
        (7, True),
        ("0", False),
        ("0.00", False),
        ("100000000", False),
        ("1.005", False),
        ("-1", False),
        ("1e3", False),
        ("", False),
        (" 1", False),
        (".5", False),
        (0, False),
        (1.5, False),
        (None, False),
    ],
)
def test_the_schema_of_an_amount_takes_what_the_rule_takes(desk, amount, sound):
    schema = with_components(SCHEMAS["OrderIn"]["properties"]["amount"])
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(amount) is sound
    body = {"customer": desk.customer()["id"], "item": "Tea", "amount": amount}
    answer = desk.post("/api/orders/", by="staff", json=body)
    assert (answer.status_code == 201) is sound


def test_instants_days_and_nullable_members_are_said_in_types():
    order = SCHEMAS["OrderOut"]["properties"]
    assert order["created_at"]["format"] == "date-time"
    assert order["notes"]["type"] == ["string", "null"]
    assert SCHEMAS["BucketOut"]["properties"]["start"]["format"] == "date"
    for schema in SCHEMAS.values():
        for name, member in schema.get("properties", {}).items():
            if name.endswith("_at") or name in ("as_of", "timestamp", "date_joined", "last_login"):
                assert member["format"] == "date-time", name


def test_lists_take_repeated_values_and_writers_their_headers():
    _, _, listing = OPERATIONS["listOrders"]
    status = next(p for p in map(resolved, listing["parameters"]) if p["name"] == "status")
    assert (status["style"], status["explode"]) == ("form", True)
    assert status["schema"]["type"] == "array"
    assert "comma" in status["description"]
    names = {p["name"] for p in map(resolved, OPERATIONS["cancelOrder"][2]["parameters"])}
    assert names == {"order_id", "X-Request-ID", "If-Match", "Idempotency-Key"}
    headers = OPERATIONS["createOrder"][2]["responses"]["201"]["headers"]
    assert {"ETag", "Location", "Idempotent-Replayed", "RateLimit-Limit"} <= set(headers)
    assert "Link" in OPERATIONS["listCustomers"][2]["responses"]["200"]["headers"]


class Page(HTMLParser):
    """What is on a page: its ids, its links, and whether every element is closed."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags, self.text = [], [], set(), ""
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src", "action", "style", "onclick"):
                self.links.append((name, value))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_operation_and_schema_and_its_links_work(desk):
    answer = desk.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert len(set(page.ids)) == len(page.ids)
    assert set(OPERATIONS) <= set(page.ids)
    assert {f"schema-{name}" for name in SCHEMAS} <= set(page.ids)
    for _, target in page.links:
        if target.startswith("#"):
            assert target[1:] in page.ids
    for method, path, operation in OPERATIONS.values():
        assert f"{method.upper()} {path} {operation['summary']}" in page.text


def test_the_page_fetches_nothing_from_elsewhere_and_runs_no_script(desk):
    answer = desk.get("/docs")
    page = Page(answer.text)
    assert page.tags.isdisjoint({"script", "iframe", "img", "object", "form"})
    fetched = {target for _, target in page.links if not target.startswith("#")}
    assert fetched == {"/docs/reference.css", "/openapi.json"}
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    style = desk.get("/docs/reference.css")
    assert style.status_code == 200
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_the_page_shows_the_call_of_an_operation_as_a_shell_would_take_it(desk):
    text = Page(desk.get("/docs").text).text
    assert "curl -X POST 'http://localhost:8000/api/orders/'" in text
    body = json.dumps(SCHEMAS["OrderIn"]["examples"][0], ensure_ascii=False)
    assert f"-d '{body}'" in text
    assert "curl -G 'http://localhost:8000/api/customers/search/'" in text
    assert "Authorization: Bearer $TOKEN" in text


def test_text_of_the_document_is_escaped_on_the_page():
    document = json.loads(json.dumps(DOCUMENT))
    document["info"]["description"] = "<script>alert(1)</script> & `<b>`"
    page = openapi.reference.page(document)
    assert "<script>" not in page
    assert "<code>&lt;b&gt;</code>" in page

"""The OpenAPI document: complete, true to what is answered, and robust against what a fuzzer makes of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.contract.test_api_jobs import submit
from tests.support.web import API, WebFarm, render


@pytest.fixture
def document(farm: WebFarm) -> dict[str, Any]:
    found: dict[str, Any] = farm.http.get(f"{API}/openapi.json").get_json()
    return found


def test_the_document_needs_no_key_and_is_of_a_version_that_tools_know(document: dict[str, Any]):
    assert document["openapi"] == "3.1.0"
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}


def test_every_route_is_in_the_document(farm: WebFarm, document: dict[str, Any]):
    import re

    documented = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    routed = {
        (method, re.sub(r"<[^:>]+:([^>]+)>", r"{\1}", rule.rule))
        for rule in farm.app.url_map.iter_rules()
        if rule.rule.startswith(API) and not rule.rule.endswith("openapi.json")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert documented == routed


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(document: dict[str, Any]):
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert all(operation["summary"].endswith(".") for operation in operations)
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)


def test_every_api_page_is_in_the_reference(document: dict[str, Any]):
    from pathlib import Path

    text = Path("docs/reference/api.md").read_text()
    for path, item in document["paths"].items():
        for method in item:
            assert f"`{method.upper()} {path.removeprefix(API)}`" in text, (method, path)


@pytest.mark.timeout(300)
def test_no_made_up_request_breaks_the_farm_or_its_document(farm: WebFarm):
    adapter = farm.add_adapter("ink")
    job = submit(farm, prompt="a fox <lora:ink:1>")
    image = render(farm, job["id"])
    known = {
        "job_id": job["id"],
        "image_id": image,
        "lora_id": adapter["id"],
        "batch_id": farm.post("/batches", {"rows": [{"prompt": "a"}]}).get_json()["id"],
    }
    # streams have no end that a fuzzer could wait for
    schema = schemathesis.openapi.from_wsgi(f"{API}/openapi.json", farm.app).exclude(path_regex=r".*/events$")

    for result in schema.get_all_operations():
        operation = result.ok()
        run = settings(
            max_examples=5,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        def check(case: Any) -> None:
            for name, value in known.items():
                if name in (case.path_parameters or {}):
                    case.path_parameters[name] = value
            case.call_and_validate(
                headers={"Authorization": f"Bearer {farm.key}"},
                checks=[not_a_server_error, response_schema_conformance, content_type_conformance],
            )

        run(given(case=operation.as_strategy())(check))()


def test_the_web_process_never_loads_torch(farm: WebFarm):
    program = """
import sys
from pathlib import Path
from farm.settings import Settings
from farm.web.app import create_app
from farm.web import main
settings = Settings(data_dir=Path(sys.argv[1]), database_url="sqlite:///" + sys.argv[1] + "/farm.db",
    redis_url="redis://127.0.0.1:1/0", s3_endpoint="http://127.0.0.1:1", s3_access_key="a", s3_secret_key="b")
app = create_app(settings)
assert app.test_client().get("/healthz").status_code == 200
app.api_doc
heavy = {"torch", "diffusers", "transformers", "safetensors", "peft"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program, str(farm.folder)], check=True, timeout=150)

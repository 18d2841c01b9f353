"""The gateway over real HTTP, in front of a real server."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from common.errors import (
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    UnauthenticatedError,
    UnavailableError,
    VolcastError,
)
from common.schema import CORE_1, CORE_1_EXAMPLE
from server.gateway.middleware import MAX_BODY_BYTES, response_for
from tests.processes import await_true
from tests.server.bundles import EXAMPLE, Logistic
from tests.server.processes import Process, run_to_end, running

STABLE = float(Logistic(10).predict(np.array([EXAMPLE]))[0])


def refused(gateway: httpx.Client, body: str, code: int = 422) -> dict[str, Any]:
    answer = gateway.post("/predict", content=body)
    assert answer.status_code == code
    fields: dict[str, Any] = answer.json()
    return fields


def test_the_eleven_features_as_flat_json_are_scored(gateway: httpx.Client) -> None:
    answer = gateway.post("/predict", json=CORE_1_EXAMPLE)
    assert answer.status_code == 200
    fields = answer.json()
    assert fields["probability"] == pytest.approx(STABLE, abs=1e-12)
    assert (fields["threshold"], fields["spike"]) == (0.25, STABLE >= 0.25)
    assert (fields["model_name"], fields["model_version"]) == ("volatility", "10")
    assert fields["compute_us"] > 0


def test_whole_numbers_times_and_products_are_welcome(gateway: httpx.Client) -> None:
    body = {**CORE_1_EXAMPLE, "price": 65000, "product_id": "BTC-USD", "event_time_ns": 2**63 - 1}
    assert gateway.post("/predict", json=body).status_code == 200


def test_a_bare_curl_without_a_content_type_works(gateway: httpx.Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = gateway.post("/predict", content=json.dumps(CORE_1_EXAMPLE), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("query", "fields", "version"),
    [
        ({"version": "9"}, {}, "9"),
        ({}, {"version": "9"}, "9"),
        ({"version": "10"}, {"version": "9"}, "9"),
        ({"model": "jumps"}, {}, "1"),
        ({}, {"model": "jumps", "version": "1"}, "1"),
    ],
)
def test_a_model_is_chosen_by_the_body_or_else_by_the_query(
    gateway: httpx.Client, query: dict[str, str], fields: dict[str, str], version: str
) -> None:
    answer = gateway.post("/predict", params=query, json={**CORE_1_EXAMPLE, **fields})
    assert answer.json()["model_version"] == version


@pytest.mark.parametrize(
    ("name", "value", "problem", "shown"),
    [
        ("price", "NaN", "expected a finite number", "NaN"),
        ("price", "Infinity", "expected a finite number", "Infinity"),
        ("price", "-1e999", "expected a finite number", "-Infinity"),
        ("price", '"65000"', "expected a finite number", '"65000"'),
        ("price", "true", "expected a finite number", "true"),
        ("price", "null", "expected a finite number", "null"),
        ("price", "[1]", "expected a finite number", "[1]"),
        ("moon", "1", "no such field", "1"),
        ("product_id", "7", "expected text", "7"),
        ("model", "7", "expected text", "7"),
        ("event_time_ns", "1.5", "expected a whole number from 0 to 2^63 - 1", "1.5"),
        ("event_time_ns", "-1", "expected a whole number from 0 to 2^63 - 1", "-1"),
        ("event_time_ns", str(2**63), "expected a whole number from 0 to 2^63 - 1", str(2**63)),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_was_expected(
    gateway: httpx.Client, name: str, value: str, problem: str, shown: str
) -> None:
    features = {feature: str(number) for feature, number in CORE_1_EXAMPLE.items()}
    body = ",".join(f'"{feature}": {number}' for feature, number in {**features, name: value}.items())
    answer = refused(gateway, "{" + body + "}")
    assert answer["violations"] == [{"field": name, "problem": problem, "value": shown}]
    assert answer["error"] == f"{name}: {problem}, got {shown}"


def test_a_number_of_400_digits_is_refused(gateway: httpx.Client) -> None:
    body = json.dumps(CORE_1_EXAMPLE).replace("65000.01", "9" * 400)
    (violation,) = refused(gateway, body)["violations"]
    assert violation["field"] == "price"
    assert len(violation["value"]) < 100


@pytest.mark.parametrize("name", CORE_1.names)
def test_each_missing_feature_is_named(gateway: httpx.Client, name: str) -> None:
    body = {feature: value for feature, value in CORE_1_EXAMPLE.items() if feature != name}
    answer = refused(gateway, json.dumps(body))
    assert answer["error"] == f"{name}: missing, expected a finite number"


@pytest.mark.parametrize("body", ["[1]", "1", '"text"', "null"])
def test_json_that_is_no_object_is_refused(gateway: httpx.Client, body: str) -> None:
    (violation,) = refused(gateway, body)["violations"]
    assert (violation["field"], violation["problem"]) == ("body", "expected one JSON object")


@pytest.mark.parametrize("body", ["", "{", '{"price": 1', "not json", "[" * 5000, "\x00"])
def test_a_body_that_is_no_json_is_refused_as_such(gateway: httpx.Client, body: str) -> None:
    assert refused(gateway, body, 400)["error"].startswith("the body is no JSON: ")


def test_a_body_that_is_no_utf8_is_no_json(gateway: httpx.Client) -> None:
    assert gateway.post("/predict", content=b'{"price\xff": 1}').status_code == 400


def test_a_body_over_the_limit_is_refused(gateway: httpx.Client) -> None:
    answer = refused(gateway, " " * (MAX_BODY_BYTES + 1), 413)
    assert answer["error"] == f"the body is larger than {MAX_BODY_BYTES} bytes"


def test_thousands_of_unknown_fields_get_a_short_answer(gateway: httpx.Client) -> None:
    body = json.dumps({f"f{index}": 1 for index in range(5000)})
    assert len(gateway.post("/predict", content=body).content) < 10_000


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "moon"}, "model: no model 'moon'; loaded: jumps, volatility"),
        ({"version": "7"}, "version: model 'volatility' has no version '7'; loaded: 9, 10"),
    ],
)
def test_an_unknown_model_or_version_is_404(gateway: httpx.Client, fields: dict[str, str], error: str) -> None:
    assert refused(gateway, json.dumps({**CORE_1_EXAMPLE, **fields}), 404)["error"] == error


def test_health_is_the_servers(gateway: httpx.Client) -> None:
    answer = gateway.get("/health")
    assert answer.status_code == 200
    fields = answer.json()
    assert fields["ready"] is True
    assert [model["version"] for model in fields["models"]] == ["1", "9", "10", "11"]
    assert "is damaged" in fields["models"][3]["load_error"]


def test_version_tells_both_builds_and_the_schema(gateway: httpx.Client) -> None:
    fields = gateway.get("/version").json()
    assert fields["gateway"] == fields["server"]
    assert fields["contract"] == "volcast.v1"
    assert fields["schema"] == {"name": "core/1", "hash": CORE_1.hash}


def test_metrics_count_by_route_and_never_by_path(gateway: httpx.Client) -> None:
    gateway.get("/moon")
    gateway.get("/moon/2")
    gateway.post("/predict", json=CORE_1_EXAMPLE)
    text = gateway.get("/metrics").text
    assert 'volcast_gateway_requests_total{code="404",route="other"}' in text
    assert 'volcast_gateway_requests_total{code="200",route="/predict"}' in text
    assert 'volcast_gateway_request_duration_seconds_bucket{le="0.001",route="/predict"}' in text
    assert "moon" not in text


@pytest.mark.parametrize(
    ("method", "path", "code", "error"),
    [("GET", "/moon", 404, "GET /moon: Not Found"), ("GET", "/predict", 405, "GET /predict: Method Not Allowed")],
)
def test_what_is_not_there_is_answered_in_the_same_form(
    gateway: httpx.Client, method: str, path: str, code: int, error: str
) -> None:
    answer = gateway.request(method, path)
    assert (answer.status_code, answer.json()) == (code, {"error": error, "violations": []})


def test_the_docs_page_and_all_it_loads_come_from_the_gateway(gateway: httpx.Client) -> None:
    page = gateway.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url: '([^']+)'", page)
    assert len(loaded) == 4
    for path in loaded:
        assert path.startswith("/")
        assert gateway.get(path).status_code == 200
    assert '"validatorUrl": null' in page


def test_the_example_of_the_docs_is_answered_as_it_stands(gateway: httpx.Client) -> None:
    document = gateway.get("/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert gateway.post("/predict", json=content["example"]).status_code == 200
    described = content["schema"]["properties"]
    assert set(CORE_1.names) <= set(described)
    assert all(described[name]["description"] for name in CORE_1.names)
    assert set(content["schema"]["required"]) == set(CORE_1.names)


@pytest.mark.parametrize(
    ("error", "code", "text", "retry_after"),
    [
        (RequestError.of("rows", "none"), 422, "rows: none", None),
        (ModelNotFoundError.of("model.name", "no such"), 404, "model: no such", None),
        (UnauthenticatedError("no token"), 401, "no token", None),
        (OverloadedError("full", 3.2), 429, "full", "3"),
        (DeadlineError("late"), 504, "late", None),
        (UnavailableError("away"), 503, "away", "1"),
        (VolcastError("secret"), 500, "internal error", None),
    ],
)
def test_each_error_of_the_server_has_its_http_code(
    error: VolcastError, code: int, text: str, retry_after: str | None
) -> None:
    response = response_for(error)
    assert (response.status_code, json.loads(bytes(response.body))["error"]) == (code, text)
    assert response.headers.get("Retry-After") == retry_after


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.process
def test_a_gateway_may_start_first_and_is_healthy_when_the_server_is(models: Path, port: int) -> None:
    address = f"127.0.0.1:{port}"
    with running("gateway", "--port", "0", "--server", address) as process:
        with httpx.Client(base_url=f"http://{process.address}", trust_env=False, timeout=20) as client:
            away = client.get("/health")
            assert (away.status_code, away.json()["ready"]) == (503, False)
            refused = client.post("/predict", json=CORE_1_EXAMPLE)
            assert refused.status_code == 503
            assert refused.json()["error"] == "the inference server is unreachable, starting or draining"
            assert address not in away.text
            assert client.get("/version").json()["server"] is None
            with running("serve", "--port", str(port), "--metrics-port", "0", "--models-dir", str(models)):
                assert any(client.get("/health").status_code == 200 for _ in range(2000))
                assert client.post("/predict", json=CORE_1_EXAMPLE).status_code == 200
        assert process.stop(signal.SIGTERM) == 0


@pytest.mark.process
def test_a_server_that_does_not_answer_is_a_gateway_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        running("gateway", "--port", "0", "--server", f"127.0.0.1:{mute.getsockname()[1]}",
                VOLCAST_GATEWAY__TIMEOUT_S="0.2") as process,
    ):  # fmt: skip
        answer = httpx.post(f"http://{process.address}/predict", json=CORE_1_EXAMPLE, trust_env=False, timeout=20)
    assert answer.status_code == 504


def test_a_taken_port_prints_a_single_line_with_the_option_to_change(server: Process) -> None:
    port = server.address.rpartition(":")[2]
    done = run_to_end("gateway", "--port", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"volcast: port {port} on 127.0.0.1: Address already in use; choose another with --port or gateway.port\n"
    )


def test_a_gateway_whose_supervisor_has_gone_ends_in_order(server: Process) -> None:
    with running("gateway", "--port", "0", "--server", server.address) as process:
        assert process.abandon() == 0
        assert process.events()[-1]["event"] == "stopped"


def test_a_gateway_ends_in_order_on_a_signal(server: Process) -> None:
    with running("gateway", "--port", "0", "--server", server.address) as process:
        assert process.stop(signal.SIGINT) == 0
        assert process.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize("field", ["product_id", "event_time_ns", "model", "version"])
def test_null_in_an_optional_field_means_absent(gateway: httpx.Client, field: str) -> None:
    answer = gateway.post("/predict", json=CORE_1_EXAMPLE | {field: None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["probability"] == gateway.post("/predict", json=CORE_1_EXAMPLE).json()["probability"]


def test_features_may_be_an_object_of_names(gateway: httpx.Client) -> None:
    answer = gateway.post("/predict", json={"model": "volatility", "features": CORE_1_EXAMPLE, "version": None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["probability"] == gateway.post("/predict", json=CORE_1_EXAMPLE).json()["probability"]


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"features": {"price": "1"}}, "price", "expected a finite number"),
        ({"features": {"price": None}}, "price", "expected a finite number"),
        ({"features": {}}, "features", "expected an object of feature names and numbers"),
        ({"features": [1.0]}, "features", "expected an object of feature names and numbers"),
        ({"features": {"moon": 1.0}}, "moon", "no feature of schema core/1"),
        ({"features": {"price": 1.0}, "price": 1.0}, "price", "no such field"),
    ],
)
def test_a_wrong_feature_of_the_object_is_named(
    gateway: httpx.Client, body: dict[str, Any], field: str, problem: str
) -> None:
    violations = refused(gateway, json.dumps(body))["violations"]
    assert (field, problem) in [(violation["field"], violation["problem"]) for violation in violations]


def test_a_gateway_that_leaves_is_not_ready_and_still_answers_new_connections(server: Process) -> None:
    options = ("--port", "0", "--server", server.address)
    with running("gateway", *options, VOLCAST_GATEWAY__LAME_DUCK_S="60") as process:
        url = f"http://{process.address}"
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            assert client.get("/health").status_code == 200
            process.popen.send_signal(signal.SIGTERM)
            await_true(lambda: any(event["event"] == "leaving" for event in process.events()))
            kept = client.get("/health")
            assert (kept.status_code, kept.json()) == (503, {"ready": False, "error": "the gateway is draining"})
            assert kept.headers["connection"] == "close"
        assert httpx.get(f"{url}/v2/health/ready", trust_env=False, timeout=20).status_code == 503
        assert httpx.get(f"{url}/v2/health/live", trust_env=False, timeout=20).status_code == 200
        assert httpx.post(f"{url}/predict", json=CORE_1_EXAMPLE, trust_env=False, timeout=20).status_code == 200
        assert process.stop(signal.SIGTERM, timeout_s=10) == 0  # the second one: on to the drain
        assert [event["event"] for event in process.events()][-2:] == ["draining", "stopped"]

"""What users of the original pipeline type and read works: each row of the design's table, with its files and ports.

A row that does not work yet is a strict xfail that names the issue to turn it green.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, cast

import grpc
import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cli.run.processes import ProcessGroup
from common.config import KafkaConfig, load_config
from common.schema import CORE_1
from pipeline.feed.venues import FEEDS
from pipeline.records import Tick, decode_record
from tests.processes import as_environ, read_all, start, volcast
from tests.server.processes import running
from tests.training.synthetic import market, write_recording
from volcast.v1 import NamedRow, NamedRows, PredictRequest, PredictResponse

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[1]
PEOPLE, OPERATIONS = (f"issue {number}" for number in (14, 15))
SECONDS = 5400  # of the recording, a tick each
# The order of `POST /predict`; the values are of a quiet minute.
FEATURES = {
    "price": 90_000.0, "midprice": 90_000.5, "return_1s": 0.0, "return_5s": 1e-5, "return_30s": -2e-5,
    "return_60s": 3e-5, "volatility": 2e-4, "trade_intensity": 5.0, "spread_abs": 1.0, "spread_rel": 1.1e-5,
    "order_book_imbalance": 0.2,
}  # fmt: skip


def later(issue: str, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=f"{issue}: {reason}")


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return loaded


def run(
    *arguments: str | Path, cwd: Path, timeout_s: float = 300.0, environ: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    done = volcast(*map(str, arguments), cwd=cwd, environ=environ, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user: configuration, models, and a recording of an hour where ingest leaves them."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "config.yaml", folder)
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns(".lock"))
    archive = folder / load_config(folder / "config.yaml", {}).ingest.archive_dir
    archive.mkdir(parents=True)
    write_recording(archive / "BTC-USD_20251201T050000.ndjson", *market(SECONDS, seed=3))
    return folder


@pytest.fixture(scope="module")
def recording(home: Path) -> Path:
    (file,) = home.rglob("*.ndjson")
    return file


class TestCompose:
    @pytest.mark.parametrize(
        ("service", "variable", "port"),
        [
            ("kafka", "KAFKA_PORT", 9092),
            ("mlflow", "MLFLOW_PORT", 5000),
            ("gateway", "GATEWAY_PORT", 8000),
            ("server", "GRPC_PORT", 50051),
            ("prometheus", "PROMETHEUS_PORT", 9090),
            ("grafana", "GRAFANA_PORT", 3000),
        ],
    )
    def test_each_service_is_on_its_port(self, service: str, variable: str, port: int) -> None:
        published = compose()["services"][service]["ports"]
        assert f"${{BIND_ADDRESS:-127.0.0.1}}:${{{variable}:-{port}}}:{port}" in published

    def test_kafka_runs_without_zookeeper(self) -> None:
        services = compose()["services"]
        assert services["kafka"]["environment"]["KAFKA_PROCESS_ROLES"] == "broker,controller"
        assert "zookeeper" not in services

    @later(OPERATIONS, "the container is not named yet")
    def test_the_brokers_container_is_called_kafka(self) -> None:
        assert compose()["services"]["kafka"].get("container_name") == "kafka"

    @later(OPERATIONS, "Grafana has no login yet")
    def test_the_login_of_grafana_comes_from_the_environment_file(self) -> None:
        environment = compose()["services"]["grafana"]["environment"]
        assert environment.get("GF_SECURITY_ADMIN_PASSWORD", "").startswith("${")
        assert "GRAFANA" in (ROOT / "deploy" / ".env.example").read_text().replace("GRAFANA_PORT", "").replace(
            "GRAFANA_VERSION", ""
        )


@pytest.fixture(scope="module")
def rest(inference_server: str) -> Iterator[httpx.Client]:
    with (
        running("gateway", "--port", "0", "--server", inference_server) as gateway,
        httpx.Client(base_url=f"http://{gateway.address}", trust_env=False, timeout=30) as client,
    ):
        yield client


class TestRest:
    def test_the_default_port_is_8000(self) -> None:
        assert load_config(ROOT / "config.yaml", {}).gateway.port == 8000

    @pytest.mark.parametrize("path", ["/health", "/version", "/metrics", "/docs"])
    def test_the_paths_that_people_curl_are_answered(self, rest: httpx.Client, path: str) -> None:
        answer = rest.get(path)
        assert (answer.status_code, bool(answer.text)) == (200, True)

    def test_eleven_features_as_flat_json_give_a_prediction(self, rest: httpx.Client) -> None:
        assert tuple(FEATURES) == CORE_1.names
        response = rest.post("/predict", json=FEATURES)
        assert response.status_code == 200
        answer = response.json()
        assert 0 <= answer["probability"] <= 1
        assert answer["spike"] is (answer["probability"] >= answer["threshold"])
        assert answer["model_name"] == "volatility"
        assert answer["model_version"]

    @later(PEOPLE, "REST is a process of its own")
    def test_the_server_itself_answers_rest(self) -> None:
        assert "--rest-port" in run("serve", "--help", cwd=ROOT).stdout


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    return loaded


class TestStream:
    def test_two_products_go_to_ticks_raw(self, default: dict[str, Any]) -> None:
        assert default["ingest"]["products"] == ["BTC-USD", "ETH-USD"]
        assert default["ingest"]["venue"] == "coinbase"
        assert default["ingest"]["url"] == ""  # the address of the venue
        assert FEEDS["coinbase"].url.startswith("wss://advanced-trade-ws.coinbase.com")
        assert default["kafka"]["topics"]["raw"] == "ticks.raw"
        assert default["kafka"]["topics"]["features"] == "ticks.features"

    def test_raw_messages_are_archived_below_data_raw(self, default: dict[str, Any]) -> None:
        assert default["ingest"]["archive_dir"].startswith("data/raw")

    def test_ingest_fills_the_topic_and_a_plain_archive(
        self, kafka: KafkaConfig, parts: ProcessGroup, tmp_path: Path
    ) -> None:
        exchange = start(parts, "exchange", ["exchange", "--simulate", "--port", "0", "--seed", "5"]).ready
        assert exchange is not None
        options = ["--url", exchange["url"], "--duration", "3s", "--archive", str(tmp_path / "raw")]
        run("ingest", *options, cwd=tmp_path, environ={**as_environ(kafka), "VOLCAST_INGEST__METRICS_PORT": "0"})
        records = [decode_record(message.value() or b"") for message in read_all(kafka, kafka.topics.raw, 2)]
        assert {record.product_id for record in records if isinstance(record, Tick)} == {"BTC-USD", "ETH-USD"}
        (file,) = (tmp_path / "raw").rglob("*.ndjson*")
        assert file.suffix == ".ndjson"
        assert b'"ticker"' in file.read_bytes()

    def test_the_topic_is_checked_for_60_seconds(self) -> None:
        text = run("check", "--help", cwd=ROOT).stdout
        assert re.search(r"--duration DURATION .*\[default: 60\]", text)

    def test_check_takes_plain_seconds(self, kafka: KafkaConfig, home: Path) -> None:
        done = volcast("check", "--duration", "1", "--json", cwd=home, environ=as_environ(kafka))
        assert json.loads(done.stdout)["problems"] is not None

    def test_replay_takes_minutes_of_the_newest_recording(self, kafka: KafkaConfig, home: Path) -> None:
        done = run("replay", "--duration", "10", "--speed", "max", "--json", cwd=home, environ=as_environ(kafka))
        ticks = [decode_record(message.value() or b"") for message in read_all(kafka, kafka.topics.raw, 600)]
        assert json.loads(done.stdout)["ticks"] == 601 == sum(isinstance(each, Tick) for each in ticks)  # both ends


class TestFeatures:
    def test_a_recording_named_by_data_file_becomes_parquet(self, home: Path, recording: Path) -> None:
        out = home / "data" / "processed" / "features.parquet"
        out.parent.mkdir(exist_ok=True)
        run("features", "--data-file", recording, "--out", out, cwd=home)
        table = pq.read_table(out)
        assert set(CORE_1.names) <= set(table.column_names)
        assert table.num_rows == SECONDS

    def test_a_compressed_recording_is_read_too(self, home: Path, recording: Path, tmp_path: Path) -> None:
        rolled = tmp_path / f"{recording.name}.gz"
        rolled.write_bytes(gzip.compress(recording.read_bytes()))
        run("features", "--data-file", rolled, "--out", tmp_path / "f.parquet", cwd=home)
        assert pq.read_table(tmp_path / "f.parquet").num_rows == SECONDS

    def test_without_a_file_the_newest_recording_is_taken(self, home: Path, tmp_path: Path) -> None:
        run("features", "--out", tmp_path / "f.parquet", cwd=home)
        assert pq.read_table(tmp_path / "f.parquet").num_rows == SECONDS

    def test_the_default_file_is_below_data_processed(self) -> None:
        assert "data/processed/features.parquet" in run("features", "--help", cwd=ROOT).stdout


@pytest.fixture(scope="module")
def trained(home: Path, recording: Path) -> dict[str, Any]:
    """`volcast train --model-type logistic` with few folds; its last line."""
    options = ["--folds", "2", "--no-cluster", "--json", "--name", "mine"]
    done = run("train", recording, "--model-type", "logistic", *options, cwd=home)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def evaluated(home: Path, recording: Path, trained: dict[str, Any]) -> dict[str, Any]:
    run("evaluate", recording, "--bundle", "models/mine/1", "--seen", cwd=home)
    report: dict[str, Any] = json.loads((home / "reports" / "model_eval.json").read_text())
    return report


@pytest.fixture(scope="module")
def drifted(home: Path, recording: Path) -> Path:
    """The folder of reports after `volcast drift --compare-train-test`."""
    done = volcast("drift", "--compare-train-test", "--reference", str(recording), cwd=home, timeout_s=300)
    assert done.returncode in (0, 3), done.stderr
    return home / "reports" / "evidently"


class TestModels:
    def test_training_writes_a_bundle_and_a_run(self, home: Path, trained: dict[str, Any]) -> None:
        manifest = json.loads((home / "models" / "mine" / "1" / "manifest.json").read_text())
        assert manifest["kind"] == "logistic"
        assert {"zscore", "logistic"} <= set(manifest["metrics"])
        assert (home / "data" / "mlflow.db").exists()

    def test_xgboost_is_chosen_by_model_type(self, home: Path, recording: Path) -> None:
        options = ["--folds", "2", "--no-cluster", "--no-track", "--name", "trees"]
        run("train", recording, "--model-type", "xgboost", *options, cwd=home)
        manifest = json.loads((home / "models" / "trees" / "1" / "manifest.json").read_text())
        assert manifest["kind"] == "xgboost"

    def test_infer_times_the_model_at_a_path(self, home: Path, trained: dict[str, Any]) -> None:
        done = run("infer", "--model-path", "models/mine/1", "--benchmark", "--json", cwd=home)
        assert json.loads(done.stdout.splitlines()[-1])

    def test_the_evaluation_compares_baseline_and_model(self, evaluated: dict[str, Any]) -> None:
        (part,) = evaluated["parts"]
        assert "zscore" in part["models"]
        for figures in part["models"].values():
            assert {"pr_auc", "f1", "precision", "recall"} <= set(figures["metrics"])
            assert set(figures["confusion"]) == {
                "true_positives",
                "false_positives",
                "false_negatives",
                "true_negatives",
            }

    def test_the_evaluation_holds_a_classification_report(self, evaluated: dict[str, Any]) -> None:
        (part,) = evaluated["parts"]
        assert all("classification_report" in figures for figures in part["models"].values())

    def test_drift_compares_training_and_test_rows(self, drifted: Path) -> None:
        (page,), (figures,) = drifted.glob("*.html"), drifted.glob("*.json")
        assert "<html" in page.read_text()[:1000].lower()
        assert json.loads(figures.read_text())

    def test_the_drift_report_has_its_known_name(self, drifted: Path) -> None:
        assert {"evidently_report.html", "evidently_report.json"} <= {file.name for file in drifted.iterdir()}


class TestExploration:
    def test_the_report_shows_distributions_and_the_choice_of_a_threshold(self, home: Path, recording: Path) -> None:
        run("explore", recording, "--out", "explored", cwd=home)
        assert "percentile" in " ".join(file.name for file in (home / "explored").rglob("*.png"))
        assert any((home / "explored").glob("*.html"))

    def test_the_notebook_is_there(self) -> None:
        notebook = json.loads((ROOT / "training" / "notebooks" / "eda.ipynb").read_text())
        text = "".join("".join(cell["source"]) for cell in notebook["cells"]).lower()
        assert "percentile" in text
        assert "threshold" in text


class TestFiles:
    @pytest.mark.parametrize(
        "path", ["docs/model_card_v1.md", "docs/scoping_brief.md", ".env.example", "config.yaml", "deploy/.env.example"]
    )
    def test_the_files_of_the_original_are_there(self, path: str) -> None:
        assert (ROOT / path).stat().st_size > 0

    def test_the_configuration_has_what_the_original_had(self) -> None:
        config = yaml.safe_load((ROOT / "config.yaml").read_text())
        assert {"bootstrap_servers", "topics"} <= set(config["kafka"])
        assert {"products", "archive_dir", "silence_s"} <= set(config["ingest"])  # silence_s: when to reconnect
        assert config["tracking"]["uri"]

    @later(OPERATIONS, "the file is called ingestor.Dockerfile")
    def test_the_ingestors_image_has_its_known_name(self) -> None:
        assert (ROOT / "deploy" / "docker" / "Dockerfile.ingestor").exists()

    def test_the_ingestors_image_runs_a_command_with_help(self) -> None:
        (file,) = (each for each in (ROOT / "deploy" / "docker").iterdir() if "ingestor" in each.name)
        assert re.search(r'^ENTRYPOINT \["volcast", "ingest"\]$', file.read_text(), re.MULTILINE)
        assert "Usage: volcast ingest" in run("ingest", "--help", cwd=ROOT).stdout

    @pytest.mark.parametrize("path", ["README.md", "docs/model_card_v1.md", "docs/model_card_v2.md"])
    def test_no_trades_are_placed_and_the_page_says_so(self, path: str) -> None:
        text = " ".join((ROOT / path).read_text().split())
        assert re.search(r"places no trades|No trade is placed", text)


@pytest.fixture(scope="module")
def channel(inference_server: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(inference_server) as channel:
        yield channel


class TestGrpc:
    """What grpcurl does: list, describe, health, and a call with named features."""

    def test_the_default_port_is_50051(self) -> None:
        assert load_config(ROOT / "config.yaml", {}).server.port == 50051

    def test_services_are_listed_and_described(self, channel: grpc.Channel) -> None:
        stub = cast(Any, reflection_pb2_grpc.ServerReflectionStub(channel))
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="volcast.v1.InferenceService"),
        ]
        listed, described = stub.ServerReflectionInfo(iter(questions), timeout=20)
        names = {service.name for service in listed.list_services_response.service}
        assert {"volcast.v1.InferenceService", "grpc.health.v1.Health"} <= names
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(raw)
            for raw in described.file_descriptor_response.file_descriptor_proto
        ]
        methods = {method.name for file in files for service in file.service for method in service.method}
        assert {"Predict", "StreamPredict", "Health"} <= methods

    def test_health_is_checked_and_watched(self, channel: grpc.Channel) -> None:
        stub = cast(Any, health_pb2_grpc.HealthStub(channel))
        request = health_pb2.HealthCheckRequest()
        serving = health_pb2.HealthCheckResponse.SERVING
        assert stub.Check(request, timeout=20).status == serving
        watch = stub.Watch(request, timeout=20)
        assert next(watch).status == serving
        watch.cancel()

    def test_named_features_give_a_probability(self, channel: grpc.Channel) -> None:
        call = channel.unary_unary(
            "/volcast.v1.InferenceService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        row = NamedRow(product_id="BTC-USD", features=FEATURES)
        answer = call(PredictRequest(named=NamedRows(rows=[row])), timeout=20)
        assert len(answer.probabilities) == 1
        assert 0 <= answer.probabilities[0] <= 1

"""Every client of Kafka is made in one module, which gives topics and groups the installation's prefix."""

from tests.architecture.sources import imported, named, shipped_files

MAKER = "infra/kafka/connections.py"
CLIENTS = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient"}
ADMINISTRATORS = {"infra/kafka/admin.py", "infra/kafka/inspector.py", "infra/kafka/topics.py"}
"""Those that talk to the broker under the cluster's own names, and translate them themselves."""


def test_clients_are_made_in_one_module() -> None:
    """No other shipped file imports a client, the package that exports them, or another library for Kafka."""
    makers: set[str] = set()
    for path in shipped_files():
        for name in imported(path):
            package, _, last = name.partition(".")
            if name == "aiokafka" or last.rpartition(".")[2] in CLIENTS or package in {"confluent_kafka", "kafka"}:
                makers.add(named(path))
    assert makers == {MAKER}


def test_administrators_are_known() -> None:
    """An administration client has the cluster's names: whoever asks for one translates."""
    users = {
        named(path) for path in shipped_files() if "tradesaga.infra.kafka.connections.open_admin" in imported(path)
    }
    assert users == ADMINISTRATORS
    for path in shipped_files():
        if named(path) in ADMINISTRATORS:
            assert {"tradesaga.infra.kafka.names.Cluster"} <= set(imported(path))

"""Apache Kafka for this machine, from Python alone (docs/decisions/0019-kafka-from-python.md)."""

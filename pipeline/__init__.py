"""From the exchange to predictions: feeds, ingest, archive, Kafka, features, the feature worker, replay."""

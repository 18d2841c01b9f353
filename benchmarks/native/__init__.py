"""Native peers (echoes without a model) and load generators, built by benchmarks/native/build."""

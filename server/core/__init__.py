"""The computation of the server: rows, models, predictions. Plain values in and out; no gRPC, HTTP or clock.

Every endpoint translates its requests into `requests.PredictInput`, calls `DataPlane`, and translates the `Result` or
the VolcastError back.
"""

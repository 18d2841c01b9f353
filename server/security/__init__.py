"""TLS, bearer tokens and limits per connection.

Of this package, only `Gate.admit` runs once per call.
"""

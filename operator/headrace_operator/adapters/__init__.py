"""One adapter for each library: the API server by `kubernetes`, NATS by `nats`, metrics."""

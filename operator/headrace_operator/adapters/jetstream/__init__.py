"""NATS, as the operator reads it."""

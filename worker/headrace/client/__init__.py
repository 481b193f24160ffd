"""The SDK for producers: submit, wait, look, cancel, replay."""

from headrace.client.client import Client
from headrace.client.submission import Submission

__all__ = ["Client", "Submission"]

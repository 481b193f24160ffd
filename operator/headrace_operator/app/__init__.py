"""The use cases: what is done with what is known. The world comes in by the ports."""

"""The lease keeper: a small process beside the worker that extends the leases of running tasks.

Neither a blocked event loop nor a handler that holds the GIL can stop it, see
`docs/adr/0002-lease-keeper.md`. `parent` is the worker's side, `process` the keeper's, `table` the
memory that they share.
"""

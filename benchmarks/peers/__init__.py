"""One module for each measured system; each runs in a process, and a venv, of its own."""

"""Programs that run outside the Pod, honest and hostile: ``python -m benchmarks.abuse.clients.NAME``.

Each prints JSON objects, a line each. Those that hold something print one when they hold it and another one at the end,
which is when their standard input ends.
"""

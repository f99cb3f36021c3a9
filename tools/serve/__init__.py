"""What the server must show: its cost, its answers under load, and what hostile requests do to it.

python -m tools.serve.cost MODEL        CPU time of a JPEG over HTTP, by that of Classifier
python -m tools.serve.load MODEL        64 connections for minutes, and waiting times at 70 % of capacity
python -m tools.serve.fuzz              mutated requests
python -m tools.serve.schema            schemathesis against /openapi.json
"""

__all__: list[str] = []

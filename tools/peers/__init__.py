"""The parts of tools/compare_peers.py: the peers' graphs, the contenders made of them, their timing and the report.

packages    the optional packages, and what to say when one is missing
graph       building an ONNX graph by hand
bhvit       a BHViT checkpoint as a float32 graph
classic     DeiT-Tiny and MobileNetV2 with random weights
int8        quantising those two
eager       running a graph with PyTorch's eager operators
contenders  everything that can be timed, each with its best settings
timing      round after round, one call of each
report      table, JSON, plot, the README's section
"""

import os

# It would choose OpenBLAS kernels for another CPU; must happen before NumPy is loaded.
os.environ.pop("OPENBLAS_CORETYPE", None)

"""From an entry of the kernels' catalog to the address of its machine code."""

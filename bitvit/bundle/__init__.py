"""A model as one small native library: kernels, weights, and C code that needs neither Python nor a compiler's runtime.

    writing     model file -> folder; bitvit.bundle.writing.write_bundle is what the command calls
    targets     processors that there can be kernels for, and how a program tells at run time which it has
    level       the kernels and the weights for one processor, made in a process of its own
    source      the C code that is generated; what is not lies in the folder c
    linking     the shared library that Python loads
    manifest    bundle.json, which says what the folder holds
    model       the model in such a folder, for Python: neither Numba nor LLVM is needed

Importing the package imports none of them.
"""

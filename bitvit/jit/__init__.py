"""From an entry of the kernels' catalog to the address of its machine code.

    loader      addresses of functions: out of the cache, or compiled now
    cache       the folder of object files, one a function
    workers     two processes that compile side by side
    compiler    one function, through Numba and LLVM, to an object file

Importing the package imports none of them.
"""

"""From an entry of the kernels' catalog to the address of its machine code.

    loader      addresses of functions: out of the cache, or compiled now
    cache       the folder of object files, one a function
    sweeping    folders of the cache that nothing uses any more
    trust       whether only this user or root can have written what is in a folder
    checks      whether kernels can be compiled and run at all
    sharing     each function compiled by one process, whichever want it
    claims      which process compiles what
    workers     subprocesses that compile side by side
    compiler    one function, through Numba and LLVM, to an object file

Importing the package imports none of them.
"""

"""What CI has no compilers, emulators and rights for: bundles built and run in every way that they promise."""

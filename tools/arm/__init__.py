"""64-bit ARM by emulation: a root to run in, logits compared with those of x86, and what kernels cost there."""

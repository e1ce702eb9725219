"""Launch, compile and feed Triton kernels."""

"""One file a source of kernels, each with a tuple `PROVIDERS`."""

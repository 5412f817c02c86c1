"""A device that mindrl and hal have never heard of, made of host memory."""

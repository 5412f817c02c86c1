"""Joining or starting Ray, and the environment of the workers' processes."""

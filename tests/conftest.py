"""Settings for all tests."""

from hypothesis import settings

# No test times the wall clock: this machine may be busy with others.
settings.register_profile("mindrl", deadline=None, max_examples=50)
settings.load_profile("mindrl")

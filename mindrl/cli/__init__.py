"""Commands. Each module has SUMMARY, EXAMPLE, add_arguments(parser) and run(args) -> exit code.

Their top level imports nothing heavy, so that `--help` answers at once; `run` imports what it needs."""

"""The subcommands of `codistill eval`."""

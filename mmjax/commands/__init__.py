"""The commands: each file holds HELP (one line), add_arguments(parser) and run(arguments) -> exit status."""

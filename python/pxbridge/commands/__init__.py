"""The commands beside serving, a module each: `add_arguments(parser)` and `async run(args, console)`."""

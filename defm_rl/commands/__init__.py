"""The commands of `defm-rl`: one module each, named as the command is, whose `main(arguments)` returns a status."""

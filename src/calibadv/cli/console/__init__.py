"""What commands share.

- `options`: options of commands, derived from the config classes: type, default and help text are those of the fields
- `settings`: settings of a run as TOML on the terminal: those that were changed, or all of them
- `terminal`: what a person at a terminal sees: bars with the time left, plain tables, and labelled blocks of text
"""

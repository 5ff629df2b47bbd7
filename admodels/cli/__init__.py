"""The command `admodels`: one module per group of commands."""

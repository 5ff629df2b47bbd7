"""Options that several groups of commands share."""

import typer

LEDGER = typer.Option(envvar="ADMODELS_LEDGER", help="the folder of scores and verdicts")
LINES = typer.Option(help="a file with a block `lines:`, e.g. the inboxes of a plant")
MODELS = typer.Option(help="the folder that holds bundles, as METHOD/TASK")

"""`genopact-site`: the hospital's command line."""

import typer

from genopact_client.commands import consider, data, diagnose, founding, records, serve
from genopact_shared.terminal import main as run

ABOUT = (
    "The hospital's side of genopact: data, consent, budget and keys stay here. Exit codes: 0 done, 1 refused, "
    "2 wrong input, 3 cannot tell (locked, stopped, out of reach), 4 internal."
)
app = typer.Typer(help=ABOUT, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
for part in (founding, data, consider, serve, diagnose, records):
    app.add_typer(part.app)
for group in (data.consent, consider.study, records.outbox_app, records.ledger_app, records.log_app):
    app.add_typer(group)


def main() -> None:
    """The entry point."""
    run(app, "genopact-site")


if __name__ == "__main__":
    main()

"""`genopact-site`: the hospital's command line."""

from importlib.util import find_spec

import typer

from genopact_client.commands import consider, founding, records, serve
from genopact_shared.terminal import main as run

ABOUT = (
    "The hospital's side of genopact: data, consent, budget and keys stay here. Exit codes: 0 done, 1 refused, "
    "2 wrong input, 3 cannot tell (locked, stopped, out of reach), 4 internal."
)
app = typer.Typer(help=ABOUT, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
for part in (founding, consider, serve, records):
    app.add_typer(part.app)
for group in (records.consent, consider.study, records.outbox_app, records.ledger_app, records.log_app):
    app.add_typer(group)
if find_spec("genopact_ingest"):  # the importing room, a wheel of its own
    from genopact_ingest.commands import genotypes, predict

    for room in (genotypes.importing, genotypes.app, predict.matrix, predict.app):
        app.add_typer(room)


def main() -> None:
    """The entry point."""
    run(app, "genopact-site")


if __name__ == "__main__":
    main()

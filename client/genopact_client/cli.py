"""`genopact-site`: the hospital's command line."""

import typer

from genopact_client.commands import consider, data, diagnose, founding, records, serve
from genopact_shared.terminal import main as run

ABOUT = "Exit codes: 0 done, 1 refused, 2 wrong input, 3 cannot tell (locked, stopped, out of reach), 4 internal."


def _group(about: str) -> typer.Typer:
    return typer.Typer(help=about, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def build() -> typer.Typer:
    """The whole command line."""
    app = _group(f"The hospital's side of genopact: data, consent, budget and keys stay here. {ABOUT}")
    consent, study = _group("What patients decided."), _group("What studies ask of this site.")
    outbox, ledger, log = _group("All that left."), _group("Privacy spent."), _group("The transparency logs.")
    groups = {"consent": consent, "study": study, "outbox": outbox, "ledger": ledger, "log": log}
    founding.add_to(app)
    data.add_to(app, consent)
    consider.add_to(app, study)
    serve.add_to(app)
    diagnose.add_to(app)
    records.add_to(app, outbox, ledger, log)
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return app


app = build()


def main() -> None:
    """The entry point."""
    run(app, "genopact-site")


if __name__ == "__main__":
    main()

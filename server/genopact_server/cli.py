"""`genopact`: for researchers, coordinators and auditors."""

import typer

from genopact_server.commands import audit, coordinator, demo, design, gwas, manifest, model, risk, study
from genopact_shared import terminal

HELP = "Train disease-risk and drug-response models across hospitals; data and consent stay in each building."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
for group in (study, coordinator, manifest, design, risk, model, gwas, audit):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
demo.register(app)


def main() -> None:
    """The console script."""
    terminal.configure_logging()
    terminal.main(app, "genopact")


if __name__ == "__main__":
    main()

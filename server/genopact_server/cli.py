"""`genopact`: for researchers, coordinators and auditors."""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import typer

from genopact_server.commands import audit, coordinator, demo, design, gwas, manifest, risk, simulate, study
from genopact_shared import terminal

HELP = "Train disease-risk and drug-response models across hospitals; data and consent stay in each building."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.add_typer(study.app, name="study")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(manifest.app, name="manifest")
app.add_typer(design.app, name="design")
app.add_typer(risk.app, name="risk")
app.add_typer(gwas.app, name="gwas")
app.add_typer(audit.app, name="audit")
demo.register(app)
simulate.register(app)


def main() -> None:
    """The console script."""
    terminal.configure_logging()
    terminal.main(app, "genopact")


if __name__ == "__main__":
    main()

"""`genopact study`: write, check, run, watch and report a study."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from genopact_server import coordinator
from genopact_server.commands.coordinator import read_card
from genopact_server.commands.options import HOME, Home, RunName, StudyFile, opened
from genopact_server.folder import Folder
from genopact_shared import durable
from genopact_shared.approval import check_approval
from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes import NETWORKS
from genopact_shared.sheet import sheet
from genopact_shared.study import load_study, parse_study, read_yaml
from genopact_shared.terminal import Answer, Exit, bar, command, human

app = typer.Typer(help="Write, check, run and report studies.", no_args_is_help=True, rich_markup_mode=None)
Again = Annotated[bool, typer.Option("--again", help="Start another run of a study that has a finished one.")]
Runs = Annotated[int | None, typer.Option(min=1, help="Independent runs.", show_default="1000; networks 100")]
Report = Annotated[Path | None, typer.Option(help="Where to write it.", show_default="report.html in the run's folder")]
Template = Annotated[Path, typer.Argument(help="A study without coordinator and parties.", show_default=False)]
Cards = Annotated[list[Path], typer.Option(help="A site's card, once for each site.", show_default=False)]
NewStudy = Annotated[Path, typer.Option(help="The study file to write.", show_default=False)]
Approvals = Annotated[list[Path], typer.Argument(help="Approvals that the sites sent.", show_default=False)]
Until = Annotated[int | None, typer.Option(help="Pause after this round; run again to go on.")]
Canaries = Annotated[int, typer.Option(min=1, help="Made-up patients whose presence is to be guessed.")]
Extra = Annotated[Path | None, typer.Option(help="A comparison that genopact demo wrote.")]


@command(app, "compose", example="genopact study compose warfarin.yaml --card a.json --card b.json --out study.yaml")
def compose(template: Template, card: Cards, out: NewStudy, home: Home = HOME) -> Answer:
    """Fill in the parties' keys: the file that every site reads and approves."""
    body = read_yaml(template, "STUDY_UNREADABLE")
    parties = [{key: value for key, value in read_card(path).items() if key != "node"} for path in card]
    whole = {**body, "coordinator": Folder(home).card, "parties": parties}
    study = parse_study(json.dumps(whole).encode())
    out.write_text(yaml.safe_dump(whole, sort_keys=False), "utf-8")
    text = [f"Wrote {out}", f"identity {study.hash}"]
    return Answer({"study": study.hash, "file": str(out)}, text, f"genopact study check {out}")


@command(app, "check", example="genopact study check study.yaml")
def check(file: StudyFile) -> Answer:
    """Explain a study in plain words, with its cost in epsilon."""
    study = load_study(file)
    return Answer({"study": study.hash, "name": study.name}, list(sheet(study)), f"genopact-site approve {file}")


@command(app, "accept", example="genopact study accept study.yaml approval-*.json")
def accept(file: StudyFile, approvals: Approvals, home: Home = HOME) -> Answer:
    """Register a study and the approvals of its sites."""
    folder, study = Folder(home), load_study(file)
    sites = {each.site: each.planned_cohort for each in (folder.accept(study, path.read_bytes()) for path in approvals)}
    text = [f"{site:24} approved, planned cohort {planned}" for site, planned in sites.items()]
    return Answer({"study": study.hash, "sites": sites}, text, f"genopact study run {file}")


@command(app, "run", example="genopact study run study.yaml")
def run(file: StudyFile, home: Home = HOME, until_round: Until = None, again: Again = False) -> Answer:  # noqa: FBT002 - an option
    """Train with the sites that approved; resumes an unfinished run. Ctrl-C leaves the run going on."""
    folder, study = Folder(home), load_study(file)
    states = coordinator.runs_of(folder, study.hash)
    known = {state["run"] for state in states if state["stage"] == "done"}
    if known and len(known) == len(states) and not again:
        raise GenopactError("STUDY_FINISHED", f"run {states[-1]['run']}")
    missing = [party.name for party in study.parties if party.name not in folder.approvals(study)]
    require(len(study.parties) - len(missing) >= study.schedule.quorum, "APPROVALS_MISSING", ", ".join(missing))
    coordinator.ask_for(folder, study, until_round)
    return _followed(folder, file, study.hash, known)


@command(app, "watch", example="genopact study watch study.yaml")
def watch(file: StudyFile, home: Home = HOME) -> Answer:
    """Follow the study's run until it ends or pauses."""
    return _followed(Folder(home), file, load_study(file).hash, set())


@command(app, "rehearse", example="genopact study rehearse study.yaml --canaries 20 --runs 1000")
def rehearse(file: StudyFile, home: Home = HOME, canaries: Canaries = 20, runs: Runs = None) -> Answer:
    """Attack the study's plan on made-up patients: a lower bound on epsilon, which the report then shows.

    Planned cohorts are those of the approvals, or the study's minimum where too few sites have approved.
    """
    from genopact_server.audit.rehearsal import rehearse as perform

    folder, study = Folder(home), load_study(file)
    _ = folder.card  # COORDINATOR_MISSING before a folder is made
    path = folder.register(study) / "rehearsal.json"
    approvals = [check_approval(envelope, study) for envelope in folder.approvals(study).values()]
    planned = {each.site: each.planned_cohort for each in approvals}
    if len(planned) < study.schedule.quorum:
        planned = {party.name: study.minimum_cohort for party in study.parties}
    count = runs or (100 if study.recipe.name in NETWORKS else 1000)
    with bar("rehearsing", count) as step:
        found = perform(study, planned, canaries, count, lambda: step(1), published=folder.published)
    durable.replace(path, found.model_dump_json(indent=1).encode())
    text = [f"{found.confidence:.0%} sure: epsilon is at least {found.bound:.3g}; certified {found.certified:.4g}"]
    text.append(f"membership told from the final model: AUC {found.auc:.3f} (guessing 0.5)")
    if violated := found.verdict == "violated":
        text.append("VIOLATED: the certificate is refuted. Do not run this study.")
    data = found.model_dump() | {"verdict": found.verdict, "file": str(path)}
    return Answer(data, text, exit=Exit.REFUSED if violated else Exit.OK)


@command(app, "report", example="genopact study report RUN --out report.html")
def report(run: RunName, home: Home = HOME, out: Report = None, extra: Extra = None) -> Answer:
    """Write the run's report: one self-contained HTML file."""
    from genopact_server.report.report import write_report

    _, path, study = opened(home, run)
    out = out or path / "report.html"
    write_report(path, study, out, {"comparison": json.loads(extra.read_bytes())} if extra else None)
    return Answer({"report": str(out)}, [f"Wrote {out}"], f"genopact audit export {run} audit.zip --home {home}")


def _followed(folder: Folder, file: Path, study_hash: str, known: set[str]) -> Answer:
    """Follow the newest run that is not in `known` until nothing of it is wanted any more; its public state."""
    wanted = folder.home / "studies" / study_hash / "wanted"
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=human()) as progress:
        task = progress.add_task("waiting for the sites", total=None)
        while True:
            over = not wanted.exists()
            states = [state for state in coordinator.runs_of(folder, study_hash) if state["run"] not in known]
            if states:
                _show(progress, task, folder.home / "runs" / states[-1]["run"] / "events.jsonl")
            if over:
                break
            time.sleep(0.2)
    if (failed := wanted.with_name("failed")).exists():
        code = failed.read_text("ascii")
        failed.unlink()
        raise GenopactError(code, "see genopact study watch")
    require(states, "RUN_UNKNOWN", "the study has no run yet")
    state = {key: states[-1][key] for key in ("run", "study", "stage", "round", "model")}
    following = f"genopact study report {state['run']}" if state["stage"] == "done" else f"genopact study run {file}"
    return Answer(state, [f"run {state['run']}: {state['stage']}, round {state['round']}"], following)


def _show(progress: Progress, task: Any, events: Path) -> None:
    if not events.exists():
        return
    last = [json.loads(line) for line in events.read_text("utf-8").splitlines() if line.endswith("}")]
    rounds = [event for event in last if event["event"] == "round"]
    if rounds:
        mae = rounds[-1].get("metrics", {}).get("all", {}).get("mae_mg")
        figure = f", MAE {mae:.2f} mg/week" if mae is not None else ""
        text = f"round {rounds[-1]['round']} {rounds[-1]['step']}, {len(rounds[-1]['sites'])} sites{figure}"
        progress.update(task, description=text, total=rounds[-1]["of"], completed=rounds[-1]["round"])

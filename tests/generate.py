"""Writes what follows from the code: error pages, JSON Schemas, the table of results.

python -m tests.generate           or: make docs
"""

import json
from pathlib import Path

from pydantic import BaseModel

from genopact_client.policy import SitePolicy
from genopact_shared.errors import CATALOGUE, Fault
from genopact_shared.study import Study
from tests.benchmarks.record import load, table

ROOT = Path(__file__).parents[1]
ERRORS = ROOT / "docs/errors"


def generated() -> dict[Path, str]:
    """Path -> text of every generated file."""
    pages = {ERRORS / f"{code}.md": page(code, fault) for code, fault in CATALOGUE.items()}
    pages[ERRORS / "README.md"] = index()
    pages[ROOT / "policies/schemas/study.json"] = schema(Study)
    pages[ROOT / "policies/schemas/site-policy.json"] = schema(SitePolicy)
    pages[ROOT / "docs/results.md"] = table(load())
    return pages


def schema(model: type[BaseModel]) -> str:
    """The JSON Schema of a file that `model` validates, for editors."""
    said = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema(by_alias=True)
    return json.dumps(said, indent=2, sort_keys=True) + "\n"


def page(code: str, fault: Fault) -> str:
    """The page of one error."""
    return f"# {code}\n\n**What happened.** {fault.cause}\n\n**What to do.** {fault.remedy}\n\n[All codes](README.md)\n"


def index() -> str:
    """The list of all codes."""
    head = "# Error codes\n\nOn the wire there is one refusal, SITE_UNAVAILABLE. All others stay where they arose.\n\n"
    rows = [f"| [{code}]({code}.md) | {fault.cause} |" for code, fault in sorted(CATALOGUE.items())]
    return head + "\n".join(["| code | what happened |", "|---|---|", *rows]) + "\n"


def main() -> None:
    """Write the files that differ, remove pages of codes that are gone."""
    wanted = generated()
    for path, text in wanted.items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for path in set(ERRORS.glob("*.md")) - set(wanted):
        path.unlink()


if __name__ == "__main__":
    main()

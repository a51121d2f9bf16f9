"""JSON Schemas for editors, beside the files that they describe.

python -m genopact_shared.schemas genopact_shared.study:Study policies/schemas/study.json
"""

import json
import pkgutil
import sys
from pathlib import Path

from pydantic import BaseModel


def render(model: type[BaseModel]) -> str:
    """The JSON Schema of a file that `model` validates."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema(by_alias=True)
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> None:
    """Write the schema of each model (module:Class) to the path that follows it."""
    for name, path in zip(arguments[::2], arguments[1::2], strict=True):
        Path(path).write_text(render(pkgutil.resolve_name(name)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What is installed beside this package."""

from importlib import metadata

from genopact_shared.errors import require

DISTRIBUTIONS = ("genopact", "genopact-client")


def refuse_mixed() -> None:
    """Raise DISTS_MIXED if coordinator and hospital share this environment as two distributions."""
    found = {str(one.metadata["Name"] or "").lower().replace("_", "-") for one in metadata.distributions()}
    require(not found.issuperset(DISTRIBUTIONS), "DISTS_MIXED")


def requirements(name: str) -> dict[str, str]:
    """Direct dependencies of a distribution, extras apart, with their installed versions."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires(name) or ()]
    names = [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return {each: version(each) or "not installed" for each in sorted(names, key=str.lower)}


def version(name: str) -> str:
    """The installed version of a distribution, empty if there is none."""
    return next((found.version for found in metadata.distributions(name=name)), "")

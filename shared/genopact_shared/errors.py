"""The error catalogue: a stable code, its cause and its remedy. `docs/errors/` has a page for each.

GenopactError carries a code and a detail for the person at this machine. The detail never crosses the wire and is
never logged; between site and coordinator a refusal is always SITE_UNAVAILABLE.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One entry: what happened and what to do."""

    cause: str
    remedy: str


class GenopactError(Exception):
    """An error with a code of CATALOGUE."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code, self.detail, self.fault = code, detail, CATALOGUE[code]
        super().__init__(f"{code}: {self.fault.cause}" + (f" ({detail})" if detail else ""))


CATALOGUE: dict[str, Fault] = {
    # --- bytes, keys, signatures
    "CANONICAL_INVALID": Fault("Signed data is not canonical JSON.", "Export the file again with genopact; do not edit signed files."),
    "ENVELOPE_INVALID": Fault("This is not a signed genopact envelope of the expected type.", "Ask its sender for the file again."),
    "SIGNATURE_INVALID": Fault("A signature does not hold.", "Do not use the file; ask its sender and compare key fingerprints."),
    "KEY_INVALID": Fault("A key file or public key is malformed.", "Restore the key from its backup or create a new one with init."),
    "KEY_MISSING": Fault("A key file is missing.", "Run init, or restore the key from its backup."),
    "KEY_EXPOSED": Fault("A private key can be read by other accounts.", "Run chmod 600 on the key file, and replace the key if others could read it."),
    # --- the wire's only refusal
    "SITE_UNAVAILABLE": Fault("The site does not take part in this exchange.", "The reason is in the site's private log; ask the site."),
    # --- study
    "STUDY_UNREADABLE": Fault("The study file cannot be read.", "Check the path and that the file is YAML; genopact study check says where."),
    "STUDY_INVALID": Fault("The study file breaks a rule of its schema.", "Correct the fields that are listed; policies/schemas/study.json describes each."),
    "STUDY_NOT_A_PARTY": Fault("That site is not a party of the study.", "Ask the coordinator for a study file that names the site and its keys."),
    "RECIPE_UNKNOWN": Fault("This installation does not have the study's recipe in that version.", "Install the genopact release that ships it; nothing is loaded from the coordinator."),
    # --- release
    "RANGE_EXCEEDED": Fault("A sum does not fit the declared fixed point.", "Lower the recipe's scale or check the covariates' units; nothing was released."),
}

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


# fmt: off
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
    # --- courier
    "EXCHANGE_TOO_LARGE": Fault("A message is larger than this side accepts.", "Train fewer parameters or raise the limit on both sides."),
    "EXCHANGE_BROKEN": Fault("A message broke off or carries more than one envelope.", "Repeat the round; if it happens again, compare the versions of both sides."),
    "LINK_UNREACHABLE": Fault("The coordinator's link does not answer.", "Check address, certificate and firewall; the site only needs outgoing HTTPS to one port."),
    "LINK_SIGN_IN": Fault("The link does not accept this key or token.", "Ask the coordinator to enrol this site's card, or use the token that genopact coordinator init made; check this machine's clock."),
    "LINK_REFUSED": Fault("The link refused the request.", "Check that the run still goes on and that the site is a member of the study."),
    "LINK_NODE_BUSY": Fault("The link still counts an earlier connection of this node as online.", "Wait half a minute; if it lasts, look for a second link with the same node key."),
    "LINK_RUN_ENDED": Fault("The courier's run has ended.", "Submit the study again; training goes on from the last checkpoint."),
    "LINK_CONFIG": Fault("The link's configuration is unsafe or incomplete.", "Correct the setting that is named."),
    "ACCOUNT_INVALID": Fault("The accounts file is malformed or the account exists or is missing.", "Restore it from its backup; do not edit it by hand."),
    "MEMBERSHIP_INVALID": Fault("The site registry is malformed or contradicts the request.", "Enrol sites with genopact coordinator enrol; a site name and a node key belong together for good."),
    "BUNDLE_HAS_CODE": Fault("The run's app bundle carries more than a study file.", "Refuse the run and ask the coordinator why; a site never executes anything from a bundle."),
    "AGENT_UNREACHABLE": Fault("The agent does not answer on its socket.", "Start the agent; check the socket's path and that the link belongs to the socket's group."),
    "AGENT_SOCKET": Fault("The agent's socket cannot be made.", "Choose a path under 100 characters in a directory that the agent owns."),
    # --- study
    "STUDY_UNREADABLE": Fault("The study file cannot be read.", "Check the path and that the file is YAML; genopact study check says where."),
    "STUDY_INVALID": Fault("The study file breaks a rule of its schema.", "Correct the fields that are listed; policies/schemas/study.json describes each."),
    "STUDY_NOT_A_PARTY": Fault("That site is not a party of the study.", "Ask the coordinator for a study file that names the site and its keys."),
    "RECIPE_UNKNOWN": Fault("This installation does not have the study's recipe in that version.", "Install the genopact release that ships it; nothing is loaded from the coordinator."),
    "TABLE_INVALID": Fault("A covariate table breaks the recipe's schema.", "Correct the column that is named; genopact-site import lists units and levels."),
    # --- consent, site policy, ledger
    "CONSENT_FILE_MISSING": Fault("The consent file does not exist or cannot be read.", "Check the path; genopact-site consent import --help describes the columns."),
    "CONSENT_FILE_INVALID": Fault("The consent file is not a CSV table with the expected columns.", "Correct the header or the encoding (UTF-8); nothing was imported."),
    "CONSENT_INVALID": Fault("A consent record lacks a field or has an unknown value.", "Correct the fields that are named; nothing was stored."),
    "CONSENT_UNKNOWN_PERSON": Fault("Consent was given for somebody who is not enrolled here.", "Import the person's data first, or correct the row number."),
    "CONSENT_BROKEN": Fault("The consent registry does not open or was changed from outside.", "Nobody is permitted until it is restored: keep the file as evidence and restore the newest backup."),
    "CONSENT_ERASE_PENDING": Fault("The person's keys are destroyed, but another process still reads old pages of the registry.", "Stop the other process and erase the person again."),
    "POLICY_UNREADABLE": Fault("The site policy cannot be read.", "Check the path and that the file is YAML."),
    "POLICY_INVALID": Fault("The site policy breaks a rule of its schema.", "Correct the fields that are listed; quote words such as \"NO\" and decimals; policies/schemas/site-policy.json describes each."),
    "POLICY_EXAMPLE_FAILS": Fault("The site policy decides one of its own examples otherwise than the example says.", "Correct the rule or the example; until then every study is refused."),
    "LEDGER_LOCKED": Fault("Another process has the privacy ledger open.", "Stop the other agent; a ledger has one writer."),
    "LEDGER_MISSING": Fault("The privacy ledger is missing.", "Run init on a new site; on one that has trained restore the ledger from its backup, never start an empty one."),
    "LEDGER_EXISTS": Fault("There is a privacy ledger already.", "Keep it: patients' spending is for life."),
    "LEDGER_BROKEN": Fault("The privacy ledger does not open, or a write to it failed.", "Open it again if the disk was full; otherwise keep it as evidence and restore the newest backup. Nothing is released until then."),
    "LEDGER_NO_RESERVATION": Fault("There is no open reservation of that number.", "Report it with the private log's entry; a round is reserved before it is settled."),
    # --- release
    "RANGE_EXCEEDED": Fault("A sum does not fit the declared fixed point.", "Lower the recipe's scale or check the covariates' units; nothing was released."),
    "PLAN_IMPOSSIBLE": Fault("The study's plan of releases cannot be carried out.", "Change the recipe's parameters or the privacy settings in a new study file."),
    "KERNEL_REFUSED": Fault("The release kernel refused: reservation, plan and data disagree.", "Report it with the private log's entry; nothing was released."),
    # --- wire and rounds
    "FRAME_INVALID": Fault("A message is not a genopact frame or not for this place.", "Check that both ends run the same release; docs/wire.md has the format."),
    "REQUEST_EXPIRED": Fault("A request is older than its deadline.", "Check both clocks (genopact-site doctor); the coordinator asks again by itself."),
    "REQUEST_REPLAYED": Fault("A request repeats or precedes a round or attempt that was answered before.", "Nothing to do at the site; the coordinator should resume its run, not restart it."),
    "STUDY_NOT_APPROVED": Fault("This site has not approved that study.", "Read it with genopact-site study and approve it, or leave it."),
    "STUDY_EXPIRED": Fault("The study's last day has passed.", "Agree on a new study file."),
    "APPROVAL_INVALID": Fault("An approval does not belong to this study, its party or its key.", "Approve the study file again; ask the coordinator which file the run uses."),
    "RUN_UNKNOWN": Fault("No such run has been opened here.", "Open the run first; genopact study run does."),
    "STUDY_FINISHED": Fault("The study has a finished run.", "Read its report; another run costs every patient again, and needs --again and budget that is left."),
    "APPROVALS_MISSING": Fault("Fewer sites have approved the study than its quorum.", "Ask the sites that are named for their approval files and add them with genopact study accept."),
    "STUDY_BUDGET_SPENT": Fault("The study's epsilon does not cover another release at this site.", "Agree on a new study file with more spare_attempts; what was spent stays charged."),
    "RUN_CHANGED": Fault("A run was opened again with other approvals.", "Start a new run; a run's sites and planned cohorts never change."),
    "ROSTER_INVALID": Fault("The roster is too small, or a seat in it is not signed by its site.", "The coordinator should open the run again with the sites that answer."),
    "DEAL_INVALID": Fault("The shares that a site dealt are malformed or not everybody's.", "The attempt is void and the next one deals anew; if it goes on, compare the versions of the sites."),
    "UNMASK_REFUSED": Fault("The coordinator asked to open masks that must stay closed.", "Ask the coordinator why; a set of sites is opened once, and only if this site's own upload is in it."),
    "UNMASK_FAILED": Fault("Too few sites opened their masks for the same set.", "The attempt is void and the next one opens anew; look for sites that are offline."),
    "TOTAL_FORGED": Fault("The total that the coordinator returned is not the sum of the uploads.", "Stop the study and ask the coordinator for an explanation; the site's log keeps the evidence."),
    "MASK_KEY_LOST": Fault("The mask key of this run is not in memory any more.", "Nothing to do: the coordinator opens the next attempt with new keys."),
    "MODEL_NOT_LINKED": Fault("The model in a request is neither the initial one nor the last aggregate.", "Do not go on with this coordinator before it has explained the difference."),
    "COHORT_EMPTY": Fault("No patient is permitted, affordable and complete for this study.", "Check consents and budget with genopact-site doctor."),
    "QUORUM_LOST": Fault("Too few sites answered in time.", "Start the missing links and agents, then run genopact study run again: it resumes."),
    "RUN_STATE_BROKEN": Fault("The run's saved state does not fit its study.", "Restore the run folder from its backup, or start a new run."),
    # --- transparency logs and their audit
    "LOG_LOCKED": Fault("Another process is writing this log.", "Stop the other process; a log has one writer."),
    "LOG_BROKEN": Fault("The log's entries do not reproduce its last signed checkpoint.", "Keep the directory as evidence, restore the log from its latest backup and compare it with a checkpoint that another party holds."),
    "LOG_ROLLED_BACK": Fault("The log lacks entries that a signed checkpoint covers, or holds others.", "Do not continue; find the newer log, or report the incident to the parties that hold the checkpoint."),
    "LOG_WRITE_FAILED": Fault("An entry could not be written to the log.", "Check the disk, then open the log again; the entry was not acknowledged."),
    "LOG_ENTRY_INVALID": Fault("A log entry is empty, too long or cut.", "Log a digest and keep the body beside the log; export a cut file again."),
    "LOG_PROOF_INVALID": Fault("A proof does not connect an entry or a checkpoint with a log.", "Do not use what it proves; ask its sender for the log."),
    "NOTE_INVALID": Fault("This is not a signed note, checkpoint or proof.", "Ask its sender for the file again; do not edit signed files."),
    "STATEMENT_INVALID": Fault("A signed statement is of an unknown kind or breaks its schema.", "Check that both sides run the same genopact release."),
    "BUNDLE_INVALID": Fault("The audit bundle is incomplete or malformed.", "Export the bundle again with genopact audit export."),
    # --- keys and people of a site
    "KEY_EXISTS": Fault("There already is a key file at that path.", "Choose another path; a key file is never overwritten."),
    "PEOPLE_MISSING": Fault("The database that says who is which row is gone, and the keys of its people are there.", "Put people.db back; with a new one, people would get the consents of others."),
    "KEY_ERASED": Fault("A person's data key was erased or never issued.", "Leave the person out; erased data cannot come back."),
    "KEK_WRONG": Fault("The key-encryption key does not open this file.", "Check the passphrase and that the key files belong to this site."),
    "KEYFILE_INVALID": Fault("The key file is damaged.", "Restore the newest copy of the key file; without it the data cannot be read."),
    "KEYFILE_ROLLED_BACK": Fault("The key file is older than the data it belongs to.", "Put the newest key file back; an old copy may hold erased keys and must be destroyed."),
    # --- store
    "STORE_MISSING": Fault("There is no store in that folder.", "Run genopact-site init, or check the path."),
    "STORE_EXISTS": Fault("There already is a store in that folder.", "Choose another folder; a store is never overwritten."),
    "STORE_LOCKED": Fault("Another process has this store open.", "Stop the agent or wait for the running import, then try again."),
    "STORE_INVALID": Fault("The store's files do not fit together.", "Restore the store folder from its backup, or import the hospital's files again."),
    "ROW_UNKNOWN": Fault("The store has no record for a person.", "Import the person's data, or leave the person out."),
    "RECORD_INVALID": Fault("A sealed record was changed, exchanged or taken from an older store.", "Import the hospital's files again and find out who wrote to the store folder."),
    # --- import
    "IMPORT_REFUSED": Fault("The files were not imported; nothing was changed.", "Correct every finding in the hospital's export and import again."),
    "CSV_UNREADABLE": Fault("The table cannot be read as UTF-8 CSV.", "Export it again as comma-separated UTF-8, with balanced quotes."),
    "CSV_EMPTY": Fault("The table has no rows.", "Export it again with a header and one row for each person."),
    "CSV_DELIMITER": Fault("The table is not separated by commas.", "Export it with commas and decimal points."),
    "CSV_RAGGED": Fault("A row has another number of cells than the header.", "Look for stray commas and line breaks in that row; quote such cells."),
    "COLUMN_UNKNOWN": Fault("A column is not in the recipe's schema.", "Rename it to one of the known columns or remove it."),
    "COLUMN_TWICE": Fault("Two columns have the same name.", "Remove one of them."),
    "COLUMN_MISSING": Fault("A required column is missing.", "Add the column; other columns may be absent, this one may not."),
    "UNIT_WRONG": Fault("A column's unit is not the recipe's.", "Convert the column to the expected unit."),
    "PERSON_MISSING": Fault("A row has no person.", "Fill in the person or remove the row."),
    "PERSON_TWICE": Fault("A person has two rows.", "Keep one row for each person."),
    "NUMBER_INVALID": Fault("A cell is not a number.", "Write a decimal point, no thousands separators and no unit; leave unknown values empty."),
    "VALUE_RANGE": Fault("A value lies outside the recipe's range.", "Check the value and its unit; leave unknown values empty."),
    "LEVEL_UNKNOWN": Fault("A cell holds a level that the recipe does not have.", "Use one of the known levels; leave unknown values empty."),
    "ALLELE_UNKNOWN": Fault("A genotype does not consist of the variant's two alleles.", "Write it as two letters with a slash, or as 0, 1 or 2 copies of the effect allele."),
    "ALLELE_AMBIGUOUS": Fault("Both strands of this variant read the same letters, so a genotype does not tell its dosage.", "Write 0, 1 or 2 copies of the effect allele on the forward strand."),
    "DOSAGE_CONFLICT": Fault("The table and the VCF give a person different dosages.", "Correct one of them, or leave the column out of the table."),
    "VARIANT_UNKNOWN": Fault("The position of a recipe's variant is not known to this installation.", "Install the genopact release that belongs to the recipe."),
    "VCF_UNREADABLE": Fault("The VCF cannot be read or a block of it is damaged.", "Copy the file again and compare its checksum; it must be a local file."),
    "VCF_TRUNCATED": Fault("The VCF is cut off.", "Copy or export the file again; a whole one ends with BGZF's end block or a line end."),
    "VCF_NOT_BGZF": Fault("The VCF is compressed with gzip, not bgzip.", "Run: zcat FILE | bgzip > NEW, and import NEW."),
    "VCF_LINE_ENDS": Fault("The VCF has Windows line ends.", "Run: dos2unix FILE, and import it again."),
    "VCF_HEADER": Fault("The VCF's header breaks the specification.", "Export the file again with a standard tool, such as bcftools view."),
    "VCF_NO_SAMPLES": Fault("The VCF has no sample columns.", "Export the file with genotypes."),
    "VCF_SAMPLES": Fault("Sample names of the VCF are empty or not unique.", "Name each sample once, by its person: bcftools reheader."),
    "VCF_PEOPLE": Fault("No sample of the VCF is a person of the table.", "Name the samples by the table's persons: bcftools reheader -s NAMES FILE."),
    "VCF_NO_GENOTYPES": Fault("The VCF has no GT for a wanted variant.", "Export the file with GT as the first FORMAT field."),
    "VCF_RECORD": Fault("A line of the VCF breaks the specification.", "Export the file again with a standard tool, such as bcftools view."),
    "VCF_CALL": Fault("A genotype of the VCF breaks the specification.", "Look at that line's GT fields; allele numbers must be those of REF and ALT."),
    "VCF_ALLELES": Fault("The alleles at a wanted position are not the variant's.", "Check the reference build and the strand of the export."),
    "VCF_BUILD": Fault("The VCF's reference build does not fit or cannot be told.", "Declare the build, or lift the file over to GRCh38 with bcftools +liftover."),
    "VCF_GVCF": Fault("The VCF has gVCF blocks.", "Genotype it jointly first; a block is not a call."),
    "VCF_TWICE": Fault("A wanted variant has two records.", "Run: bcftools norm -m +snps, and import the result."),
    "STORE_NOT_PUBLIC": Fault("A study without noise asks for a store that is not public or synthetic.", "Leave the study; only a store whose signed manifest says public or synthetic can serve it."),
    "POLICY_REFUSED": Fault("The site policy does not permit this study.", "Read the reasons with genopact-site study check; change the policy only by its own procedure."),
    "SITE_EXISTS": Fault("There is a site in this folder already.", "Choose another folder, or keep using this one."),
    "SITE_MISSING": Fault("There is no site in this folder.", "Run genopact-site init, or name the right folder with --home."),
    "COORDINATOR_EXISTS": Fault("There is a coordinator in this folder already.", "Choose another folder, or keep using this one."),
    "COORDINATOR_MISSING": Fault("There is no coordinator in this folder.", "Run genopact coordinator init, or name the right folder with --home."),
    "STUDY_UNKNOWN": Fault("That study is not registered here.", "Register its file with genopact study accept."),
    "LEDGER_ROLLED_BACK": Fault("The log commits to records that the privacy ledger does not have.", "Stop the agent and put the newest ledger back; an older one forgets what patients have spent."),
    # --- command lines
    "USAGE": Fault("The command line is wrong.", "Correct what is named; --help shows an example."),
    "INTERNAL": Fault("Something went wrong inside genopact.", "Run the command again with --debug and report what it prints, after removing anything personal."),
    "DISTS_MIXED": Fault("Both distributions, genopact and genopact-client, are installed in one environment.", "Make a new environment for the hospital and install genopact-client alone."),
    "PASSPHRASE_MISSING": Fault("The passphrase of the site's keys was not given.", "Use --passphrase-file or GENOPACT_PASSPHRASE_FILE, a systemd credential named passphrase, or a terminal."),
    "COHORT_TOO_SMALL": Fault("Too few patients permit this study now.", "Import consents or wait for more patients; genopact-site consent status --study FILE shows the reasons."),
    "OPENING_MISSING": Fault("There is no opening or no logged intent for that run, round and attempt.", "Take run, round and attempt from genopact-site log show."),
    "CARD_INVALID": Fault("A site's card cannot be read.", "Ask the site for the output of genopact-site card --format json."),
    "DEMO_FAILED": Fault("A step of the demo failed.", "Read the .log files in the demo's folder; run it again, and report it if it fails twice."),
    "DEMO_FOLDER": Fault("The folder exists and is not a former demo.", "Name another folder with --out."),
}
# fmt: on

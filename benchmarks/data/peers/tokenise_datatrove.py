"""datatrove: JsonlReader into DocumentTokenizer, which writes its own files. Documents are not shuffled.

Options: corpus (a JSONL file), tokenizer (tokenizer.json), out (an empty folder), eot_id, verify.
"""

from pathlib import Path

import numpy as np
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from measured import Stretch, answer, documents_digest, options


def main() -> None:
    """Measure one run; loading the vocabulary is not counted."""
    asked = options()
    corpus, out = Path(asked["corpus"]), Path(asked["out"])
    reader = JsonlReader(str(corpus.parent), glob_pattern=corpus.name)
    writer = DocumentTokenizer(str(out), asked["tokenizer"], eos_token="<|endoftext|>", shuffle_documents=False)
    writer.tokenizer.encode("warm")
    with Stretch() as stretch:
        writer.run(reader.run())
    (file,) = out.glob("*.ds")
    ids = np.fromfile(file, np.uint16)
    digest = documents_digest([ids], asked["eot_id"]) if asked["verify"] else None
    answer(stretch, ("datatrove", "tokenizers", "orjson"), tokens=len(ids), digest=digest)


if __name__ == "__main__":
    main()

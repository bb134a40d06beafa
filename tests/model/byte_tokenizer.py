"""A small tokenizer for the tests."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = "The headrace feeds the wheel. 水渠推动水车。\n\ndef wheel(): return 'water'  # 42\n" * 3
END_OF_TEXT = "<|endoftext|>"


def byte_tokenizer(path: Path) -> Path:
    """Write a byte-level BPE of 300 tokens, as data_shards trains it; its id 0 ends texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(path))
    return path

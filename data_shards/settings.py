"""The `data:` section of a run file."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data_shards.named_function import is_named, resolve_name
from data_shards.task_settings import TASK_FORMATS, ClassTask, Task

_WILDCARDS = frozenset("*?[")
# Every byte needs a token of its own, and <|endoftext|> is one more.
SMALLEST_VOCABULARY = 257
FORMATS = ("auto", "text", "jsonl", "parquet", "arrow", "webdataset", "tokens", "megatron")
# What holds ids instead of text, and so cannot be tokenised, trained on by a tokenizer, or cut into sentences.
TOKEN_FORMATS = ("tokens", "megatron")
_FORMATS_WITH_FIELD = ("jsonl", "parquet", "arrow", "webdataset", "tokens")


class SourceSettings(BaseModel):
    """Files that are read alike and share one weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        min_length=1,
        description="a file, a pattern such as corpus/**/*.txt, or the folder of a Hugging Face dataset; "
        "s3://..., gs://... and what else fsspec knows",
    )
    format: str = Field(
        "auto",
        description="auto (by the file's suffix), text, jsonl, parquet, arrow, webdataset, megatron, tokens (lists of "
        "ids in Parquet, Arrow or JSONL files), or MODULE:FUNCTION, a reader of yours (docs/extending.md)",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="where a record keeps its text (default: text) or its ids (default: input_ids); a.b is nested; "
        "given for webdataset, a sample's .json goes before its .txt",
    )
    task: Task | None = Field(
        None,
        description="records for fine-tuning instead of text: {prompt: FIELD, completion: FIELD}, {messages: FIELD} "
        "or {text: FIELD, pair: FIELD, label: FIELD}, of which pair may be left out",
    )
    document: Literal["file", "line", "blank_line"] = Field(
        "file", description="what is one document of a text file: the file, a line, or what stands between blank lines"
    )
    weight: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="share of training tokens; all sources have one or none"
    )
    max_passes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="how often the source may be gone through in a run, at most"
    )
    name: str | None = Field(None, min_length=1, description="default: the path from its last plain folder on")

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("format")
    @classmethod
    def _is_known_or_a_reader(cls, value: str) -> str:
        if value not in FORMATS and not is_named(value):
            raise ValueError(f"must be {', '.join(FORMATS)}, or MODULE:FUNCTION of a reader")
        return value

    @field_validator("path")
    @classmethod
    def _refuse_commands(cls, value: str) -> str:
        if value.startswith("pipe:"):
            raise ValueError(
                "must be a file, a pattern or an address; a command (pipe:) is never run: write its output"
            )
        return value

    @model_validator(mode="after")
    def _refuse_what_would_not_be_used(self) -> Self:
        if self.format not in ("auto", "text") and self.document != "file":
            raise ValueError(
                f"document: {self.document} is for text files, but format is {self.format}: leave document out"
            )
        if self.field is not None and (self.format in ("text", "megatron") or is_named(self.format)):
            raise ValueError(
                f"field: {self.field} is for {', '.join(_FORMATS_WITH_FIELD)}, but format is {self.format}: "
                "leave field out"
            )
        if self.task is not None and self.format not in ("auto", *TASK_FORMATS):
            raise ValueError(
                f"task: records are read from {', '.join(TASK_FORMATS)}, but format is {self.format}: "
                "convert the file to one of them"
            )
        if self.task is not None and self.field is not None:
            raise ValueError(f"field: task names the fields already, but field is {self.field}: leave field out")
        return self

    @property
    def label(self) -> str:
        """The source's name in manifest and statistics: `name`, or one made from `path` that ignores where it lies."""
        return self.name or default_name(self.path)


class TrainTokenizer(BaseModel):
    """A tokenizer that is trained on the training documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Literal["bpe"] = Field(description="byte-level BPE, as GPT-2's")
    vocab_size: int = Field(ge=SMALLEST_VOCABULARY, description="<|endoftext|> and the 256 bytes included")


class DataSettings(BaseModel):
    """The corpus, its tokenizer, and how it is laid out and read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: str | None = Field(
        None, description="where the dataset lies, a folder or s3://..., gs://...; default: OUT_DIR/data"
    )
    sources: tuple[SourceSettings, ...] = Field(min_length=1, description="paths, patterns or sections")
    tokenizer: TrainTokenizer | str = Field(
        description="{train: bpe, vocab_size: N}, a tokenizer.json, or a folder with tokenizer.json "
        "or vocab.json/encoder.json and merges.txt/vocab.bpe"
    )
    val_fraction: float = Field(0.01, gt=0, lt=1, description="share of documents held out, chosen by their hash")
    val_sources: tuple[SourceSettings, ...] | None = Field(
        None, min_length=1, description="held-out files; val_fraction is then not used"
    )
    on_bad_record: Literal["fail", "skip"] = Field(
        "fail", description="skip drops bad records, counts them and lists the first in rejects.parquet"
    )
    on_bad_shard: Literal["fail", "skip"] = Field(
        "fail", description="skip leaves a missing or corrupt shard out of training, and records that"
    )
    packing: Literal["stream", "documents", "sentence_pairs", "examples"] = Field(
        "stream",
        description="stream: sequences run over documents' borders (GPT-2); documents: attention and positions restart "
        "at each document; sentence_pairs: two neighbouring sentences are a document (GPT-1); examples: records of a "
        "task, each whole in one sequence, best-fit (the default with a task, and only with one)",
    )
    too_long: Literal["cut", "skip", "fail"] = Field(
        "cut",
        description="an example that is longer than a sequence: cut takes tokens off its start (if what is learned "
        "alone is too long, it is a bad record), skip leaves it out, fail stops",
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="names of the classes, in order; default: those found in the sources, sorted"
    )
    unit_bytes: int = Field(64 << 20, ge=1, description="text of one unit of work and so of one shard, at most")
    block_tokens: int = Field(65_536, ge=1, le=1 << 30, description="tokens in one member of a shard")
    streams: int = Field(192, ge=1, description="read at once; world sizes that divide it read fewest shards each")
    shuffle_window: int = Field(8, ge=1, description="shards among which a stream's sequences are shuffled")
    cache_dir: str | None = Field(
        None, description="where a node keeps the shards of a remote dataset; default: a folder in its temporary one"
    )
    cache_bytes: int = Field(50 << 30, ge=1 << 20, description="what cache_dir holds, at most; 1048576 or more")

    @model_validator(mode="before")
    @classmethod
    def _pack_examples_where_there_is_a_task(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "packing" in value or not isinstance(value.get("sources"), list | tuple):
            return value
        sources = value["sources"]
        has_task = any(isinstance(source, dict) and source.get("task") for source in sources)
        return {**value, "packing": "examples"} if has_task else value

    @field_validator("val_sources")
    @classmethod
    def _refuse_weights_of_val_sources(cls, value: tuple[SourceSettings, ...] | None) -> Any:
        for source in value or ():
            if source.weight is not None:
                raise ValueError(
                    f"{source.path}: validation sources have no weight, found {source.weight}: leave it out"
                )
            if source.max_passes is not None:
                raise ValueError(
                    f"{source.path}: validation sources are gone through once for each evaluation, max_passes "
                    f"{source.max_passes} would do nothing: leave it out"
                )
        return value

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        without = [source.label for source in self.sources if source.weight is None]
        if without and len(without) < len(self.sources):
            raise ValueError(f"sources: all have a weight or none has; without one: {', '.join(without)}")
        labels = [source.label for source in (*self.sources, *(self.val_sources or ()))]
        doubles = sorted({label for label in labels if labels.count(label) > 1})
        if doubles:
            raise ValueError(f"sources: two are called {doubles[0]}: give each a name of its own (name: ...)")
        return self

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        check_tasks(self)
        return self

    @model_validator(mode="after")
    def _refuse_what_ids_cannot_do(self) -> Self:
        for source in (*self.sources, *(self.val_sources or ())):
            if source.format in TOKEN_FORMATS:
                refuse_for_tokens(self, source, "sources" if source in self.sources else "val_sources")
        return self

    @property
    def task(self) -> Task | None:
        """The task of the first source; those of the others are of the same kind."""
        return self.sources[0].task

    @property
    def weights(self) -> dict[str, float] | None:
        """Weight by source name, as given (they need not sum to one); None if no source has one."""
        weighted = {source.label: source.weight for source in self.sources if source.weight is not None}
        return weighted or None


def default_name(path: str) -> str:
    """A source's name that stays when the corpus moves: `a/b/en/*.txt` is `en/*.txt`, `a/zh.jsonl` is `zh.jsonl`."""
    parts = Path(path).parts
    wild = next((i for i, part in enumerate(parts) if _WILDCARDS & set(part)), len(parts))
    kept = parts[max(0, wild - 1) :]
    return "/".join(part for part in kept if part != "/") or path


def refuse_for_tokens(settings: DataSettings, source: SourceSettings, field: str) -> None:
    """Raise ValueError where `settings` ask of a source of ids what only text can give."""
    if isinstance(settings.tokenizer, TrainTokenizer):
        raise ValueError(
            f"{field}: {source.path} holds ids, whose tokenizer must be known, but tokenizer is to be trained: "
            "give the tokenizer.json that the ids were made with"
        )
    if settings.packing == "sentence_pairs":
        raise ValueError(
            f"packing: sentence_pairs needs text, but {field} has {source.path}, which holds ids: "
            "take stream or documents, or leave the source out"
        )


def check_tasks(settings: DataSettings) -> None:
    """Raise ValueError where sources do not have tasks of one kind, or other settings do not go with them."""
    sources = (*settings.sources, *(settings.val_sources or ()))
    kinds = {source.label: source.task.kind if source.task else "none" for source in sources}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{label}: {kind}" for label, kind in kinds.items())
        raise ValueError(f"sources: all have a task of one kind or none has; found {told}: make two datasets of them")
    if (settings.packing == "examples") != (settings.task is not None):
        raise ValueError(
            "packing: examples is for sources with a task, and they are packed in no other way; found "
            f"{settings.packing} {'with' if settings.task else 'without'} a task: leave packing out"
        )
    if settings.classes is not None:
        if not isinstance(settings.task, ClassTask):
            raise ValueError("classes: are for sources with a task {text, label}: leave classes out")
        if len(set(settings.classes)) < len(settings.classes):
            raise ValueError("classes: each has a name of its own, found one twice: leave it out")


def is_remote(path: str) -> bool:
    """Whether a path is an address such as s3://bucket/key, and not of the local file system."""
    return "://" in path


def resolve_paths(settings: DataSettings, base: Path) -> DataSettings:
    """The same settings with absolute paths: relative ones lie under `base`, the run file's folder.

    Addresses (s3://...) stay as they are.
    """

    def resolved(source: SourceSettings) -> dict[str, Any]:
        format = resolve_name(source.format, base) if is_named(source.format) else source.format
        return {"path": _absolute(source.path, base), "name": source.label, "format": format}

    def sources(given: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        return tuple(source.model_copy(update=resolved(source)) for source in given)

    changes: dict[str, Any] = {"sources": sources(settings.sources)}
    if settings.val_sources is not None:
        changes["val_sources"] = sources(settings.val_sources)
    for field in ("tokenizer", "dir", "cache_dir"):
        value = getattr(settings, field)
        if isinstance(value, str):
            changes[field] = _absolute(value, base)
    return settings.model_copy(update=changes)


def _absolute(path: str, base: Path) -> str:
    return path if is_remote(path) else str(base.absolute() / Path(path).expanduser())

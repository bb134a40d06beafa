"""The run file: one YAML file is one run.

The sections are frozen pydantic models beside their owners; here they are composed, read from YAML, overridden by
`--set`, and their paths made absolute. The `cluster` section is handed through as data to its owner.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from data_shards.named_function import is_named, resolve_name
from data_shards.settings import DataSettings, is_remote
from data_shards.settings import resolve_paths as resolve_data_paths
from model.presets import PRESETS
from model.settings import ModelSettings
from monitoring.addresses import holds_secret, without_secrets
from monitoring.settings import MonitoringSettings
from monitoring.settings import resolve_paths as resolve_monitoring_paths
from trainer.errors import TrainError
from trainer.origin import model_section, resolve_origin
from trainer.settings import FROZEN, CheckpointSettings, EvalSettings, TrainSettings

_WHERE_SECRETS_COME_FROM = (
    "MLflow takes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database PGPASSWORD) from the environment, "
    "and an object store its own, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)


class RunConfig(BaseModel):
    """One run, whole. After `load_run_file` every path in it is absolute."""

    model_config = FROZEN

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="default: the run file's stem")
    out_dir: str = Field(description="where everything of the run goes; default: runs/NAME beside the run file")
    seed: int = Field(1337, ge=0, description="of initial weights, dropout and the order of samples")
    data: DataSettings
    model: ModelSettings = ModelSettings()
    init_from: str | None = Field(
        None,
        description="weights to start from, with a fresh optimizer: a folder in Hugging Face layout, RUN or RUN@STEP "
        "(a run's folder, or its name beside out_dir); without model.preset, fields that the model section leaves out "
        "are the origin's",
    )
    train: TrainSettings
    eval: EvalSettings = EvalSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    cluster: dict[str, Any] = Field(default_factory=dict, description="workers and budgets; see the cluster section")
    monitoring: MonitoringSettings = MonitoringSettings()
    callbacks: tuple[str, ...] = Field((), description="your functions, told of steps and more; see docs/extending.md")

    @field_validator("callbacks")
    @classmethod
    def _name_functions(cls, callbacks: tuple[str, ...]) -> tuple[str, ...]:
        for text in callbacks:
            if not is_named(text):
                raise ValueError(f"must be MODULE:FUNCTION, found {text!r}")
        return callbacks

    @field_validator("out_dir")
    @classmethod
    def _local(cls, out_dir: str) -> str:
        if "://" in out_dir:
            raise ValueError("must be a folder that all nodes see; object stores are not supported in this version")
        return out_dir

    @property
    def data_dir(self) -> Path | str:
        """The dataset's folder or address: `data.dir`, or `data` in the run's folder."""
        if self.data.dir and is_remote(self.data.dir):
            return self.data.dir
        return Path(self.data.dir or Path(self.out_dir) / "data")

    @property
    def checkpoint_dir(self) -> Path | str:
        """The checkpoints' folder or address: `checkpoint.dir`, or `checkpoints` in the run's folder."""
        if self.checkpoint.dir and is_remote(self.checkpoint.dir):
            return self.checkpoint.dir
        return Path(self.checkpoint.dir or Path(self.out_dir) / "checkpoints")

    @property
    def tokens_per_step(self) -> int:
        """Trained tokens of one optimizer step over all ranks."""
        return self.train.global_batch_size * self.seq_len

    @property
    def seq_len(self) -> int:
        """Tokens of one training sequence, T."""
        return self.model.shape().max_seq_len


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which plain YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise TrainError(f"{place}: must be valid YAML: {problem}. Correct the file there.") from error


def _read_document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TrainError(f"{path}: must be UTF-8 text, but byte {error.start} is not ({error.reason}).") from error
    except OSError as error:
        raise TrainError(
            f"{path}: cannot read the run file: {error.strerror}. Give the path of a YAML file."
        ) from error
    document = _parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise TrainError(f"{path}: must hold sections such as data, model and train, found {type(document).__name__}.")
    return document


def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The document with each `a.b=c` laid over it; c is read as YAML.

    Raises:
        TrainError: an override without `=`, or one that goes through a value that is no section.
    """
    result: dict[str, Any] = dict(document)
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise TrainError(f"--set {override}: must be of the form section.field=value, such as train.lr=3.0e-4.")
        section = result
        *parents, last = key.split(".")
        for name in parents:
            below = section.get(name) or {}
            if not isinstance(below, dict):
                raise TrainError(f"--set {override}: '{name}' is a value ({below!r}), not a section.")
            section[name] = section = dict(below)
        section[last] = _parse_yaml(text, f"--set {override}")
    return result


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _known_fields(location: tuple[int | str, ...], top: type[BaseModel]) -> list[str]:
    """Names of the fields of the section at a place under `top`."""
    models: list[type[BaseModel]] = [top]
    for part in location:
        fields = [model.model_fields[part] for model in models if isinstance(part, str) and part in model.model_fields]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return [name for model in models for name in model.model_fields]


# Where a field may be of several types, pydantic names each type it tried in the error's place.
_WORDS = (
    (r"Input should be", "must be"),
    (r"a valid dictionary( or instance of \w+)?", "a section"),
    (r"a valid tuple", "a list"),
    (r"(Tuple|List) should have at least 1 item.*", "must have at least one entry"),
)
_TRIED_TYPE = re.compile(r"(int|float|str|bool|literal\[.*\]|[A-Z]\w*)")


def _field(error: ErrorDetails, section: tuple[str, ...]) -> str:
    names = [*section, *(str(part) for part in error["loc"])]
    return ".".join(name for name in names if not _TRIED_TYPE.fullmatch(name)) or "the run file"


def _rule(error: ErrorDetails, top: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        name, known = str(error["loc"][-1]), _known_fields(error["loc"][:-1], top)
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        listed = f" Known here: {', '.join(known)}." if known else ""
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else listed
        return f"unknown field.{hint}"
    if error["type"] == "missing":
        return "this field is needed; add it."
    message = error["msg"].removeprefix("Value error, ")
    for pydantics, ours in _WORDS:
        message = re.sub(pydantics, ours, message)
    return message[:1].lower() + message[1:]


def _tried_in_vain(error: ErrorDetails) -> bool:
    """Whether other errors say more: a section is no plain value, or a list's only entries are wrong."""
    if error["type"] == "too_short":
        return bool(error["input"])
    is_plain = error["type"] in ("string_type", "int_type", "literal_error")
    return is_plain and isinstance(error["input"], dict) and bool(_TRIED_TYPE.fullmatch(str(error["loc"][-1])))


def explain(
    error: ValidationError, where: str, section: tuple[str, ...] = (), top: type[BaseModel] = RunConfig
) -> TrainError:
    """One error that names each field, its rule and the value found, from pydantic's own.

    `section` is where the model `top`, whose error it is, stands in the run file.
    """
    rules: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    details = error.errors()
    for detail in [d for d in details if not _tried_in_vain(d)] or details:
        field = _field(detail, section)
        rules.setdefault(field, []).append(_rule(detail, top))
        if detail["type"] not in ("missing", "extra_forbidden") and not isinstance(detail["input"], (dict, BaseModel)):
            found[field] = f"; found {without_secrets(repr(detail['input']))}"
    lines = [f"{field}: {', or '.join(dict.fromkeys(said))}{found.get(field, '')}" for field, said in rules.items()]
    if len(lines) == 1:
        return TrainError(f"{where}: {lines[0]}")
    return TrainError(f"{where}: {len(lines)} problems:\n" + "\n".join(f"  {line}" for line in lines))


def _take_model_of_origin(document: dict[str, Any], base: Path) -> None:
    """Make init_from absolute; without a preset, what the model section leaves out is the origin's.

    A run that was started keeps its model, and asks nothing of the origin any more.
    """
    out_dir = Path(str(document["out_dir"]))
    document["init_from"] = resolve_origin(document["init_from"], base, out_dir)
    given = document.get("model") or {}
    if not isinstance(given, dict) or "preset" in given:
        return
    known = model_section(str(out_dir if (out_dir / "run.yaml").is_file() else document["init_from"]))
    document["model"] = {**known, **given}


def _take_training_of_preset(document: dict[str, Any]) -> None:
    """Batch and learning rate, where the run file leaves them out and the preset's authors published them."""
    model, train = document.get("model"), document.get("train")
    if not isinstance(model, dict) or not isinstance(train, dict):
        return
    preset = next((known for name, known in PRESETS.items() if name == model.get("preset")), None)
    seq_len = model.get("max_seq_len") or (preset.shape["max_seq_len"] if preset else None)
    if preset is None or preset.lr is None or not isinstance(seq_len, int) or seq_len < 1:
        return
    document["train"] = {"lr": preset.lr, "global_batch_size": preset.batch_sequences(seq_len), **train}


def load_run_file(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that a YAML file asks for, with every path absolute (against the file's folder).

    Raises:
        TrainError: the file cannot be read, is no YAML, or asks for something impossible; the message names the
            field, the rule and the value found.
    """
    document = apply_overrides(_read_document(path), overrides)
    refuse_secrets(document, str(path))
    base = path.resolve().parent
    name = document.setdefault("name", path.stem)
    out_dir = document.setdefault("out_dir", f"runs/{name}")
    if isinstance(out_dir, str) and "://" not in out_dir:
        document["out_dir"] = str((base / Path(out_dir).expanduser()).resolve())
    if isinstance(document.get("init_from"), str):
        _take_model_of_origin(document, base)
    else:
        _take_training_of_preset(document)
    try:
        config = RunConfig.model_validate(document)
        data = resolve_data_paths(config.data, base)
        monitoring = resolve_monitoring_paths(config.monitoring, base)
        checkpoint = config.checkpoint.resolved(base)
        callbacks = tuple(resolve_name(text, base) for text in config.callbacks)
        resolved = {"data": data, "checkpoint": checkpoint, "monitoring": monitoring, "callbacks": callbacks}
        return config.model_copy(update=resolved)
    except ValidationError as error:
        raise explain(error, str(path)) from error


def refuse_secrets(document: Mapping[str, Any], where: str) -> None:
    """Refuse addresses with passwords, tokens or signatures in them: the run file is stored with run and dataset.

    Raises:
        TrainError: naming the field, and the address without what is secret in it.
    """
    for field, text in _texts(document, ()):
        if "://" in text and holds_secret(text) and not field.startswith("eval.samples"):
            raise TrainError(
                f"{where}: {field}: must hold no password, token or signature, since the run file is stored with the "
                f"run, found {without_secrets(text)!r}. Leave it out; {_WHERE_SECRETS_COME_FROM}"
            )


def _texts(value: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each text of a document with its field's name, such as data.sources.0.path."""
    if isinstance(value, str):
        yield ".".join(names), value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, (*names, str(name)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*names, str(index)))


def dump_run_file(config: RunConfig) -> str:
    """The resolved run file as YAML: every field, every default, every path absolute."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_run_file(text: str, where: str) -> RunConfig:
    """A resolved run file back from `dump_run_file`."""
    try:
        return RunConfig.model_validate(_parse_yaml(text, where))
    except ValidationError as error:
        raise explain(error, where) from error

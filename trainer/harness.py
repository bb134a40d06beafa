"""A model for EleutherAI's lm-evaluation-harness (`pip install lm_eval`), which is imported only where it is used.

from lm_eval import simple_evaluate
from trainer.harness import harness_model
from trainer.language_model import ModelPlace, open_language_model

model = open_language_model(ModelPlace(Path("runs/demo"), is_run=True))
simple_evaluate(harness_model(model), tasks=["hellaswag"])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from model.sampling import Sampling
from trainer.errors import TrainError
from trainer.language_model import LanguageModel, TextRequest
from trainer.scoring import Continuation, encode_pair, score

MAX_NEW_TOKENS = 256  # the harness's own default
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Harness:
    """The answers to the three kinds of the harness's requests, each of which has `args`."""

    language_model: LanguageModel

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of (context, continuation): the continuation's log-likelihood in nats, and whether it is the greedy one."""
        pairs = [encode_pair(self.language_model, *request.args) for request in requests]
        return [(likelihood, is_greedy) for likelihood, is_greedy in score(self.language_model.model, pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of (text,): its log-likelihood in nats after an end-of-text token, whatever its length."""
        prefix = list(self.language_model.prefix_ids) or [self.language_model.eot_id]
        texts = [Continuation(prefix, self.language_model.encode(request.args[0])) for request in requests]
        return [scored.log_likelihood for scored in score(self.language_model.model, texts)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Of (context, settings): the text that follows, up to one of the settings' `until`, the string excluded.

        Settings: until, max_gen_toks, do_sample, temperature, top_k, top_p, repetition_penalty. Greedy without
        do_sample, unless a temperature is given. Raises TrainError for any other.
        """
        texts = [""] * len(requests)
        alike: dict[TextRequest, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[text_request(request.args[1])].append(number)
        for wanted, numbers in alike.items():
            numbers.sort(key=lambda number: len(requests[number].args[0]))  # little padding in each batch
            for start in range(0, len(numbers), ROWS_AT_ONCE):
                batch = numbers[start : start + ROWS_AT_ONCE]
                found = self.language_model.texts([requests[number].args[0] for number in batch], wanted)
                for number, text in zip(batch, found, strict=True):
                    texts[number] = text
        return texts


def text_request(settings: Mapping[str, Any]) -> TextRequest:
    """The harness's `gen_kwargs` as a request. Raises TrainError for a setting that there is not."""
    left = dict(settings)
    until = left.pop("until", None) or ()
    stops = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop)
    tokens = left.pop("max_gen_toks", left.pop("max_new_tokens", MAX_NEW_TOKENS))
    is_sampled = left.pop("do_sample", left.get("temperature", 0.0) > 0.0)
    temperature = left.pop("temperature", 1.0)
    sampling = Sampling(
        temperature=float(temperature) if is_sampled else 0.0,
        top_k=left.pop("top_k", None) or None,
        top_p=left.pop("top_p", None),
        repetition_penalty=left.pop("repetition_penalty", 1.0),
    )
    if left:
        raise TrainError(
            f"generation_kwargs: {', '.join(sorted(left))} cannot be honoured here; take it out of the task"
        )
    return TextRequest(int(tokens), sampling, stops)


def harness_model(language_model: LanguageModel) -> Any:
    """The model as an `lm_eval.api.model.LM`, to be given to `simple_evaluate`.

    Raises TrainError where the harness is not installed.
    """
    try:
        base = import_module("lm_eval.api.model").LM
    except ImportError as error:
        raise TrainError(f"lm-evaluation-harness cannot be imported ({error}); `pip install lm_eval`") from error
    answers = Harness(language_model)
    methods = {
        name: staticmethod(getattr(answers, name))
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until")
    }
    return type("HeadraceLM", (base,), methods)()

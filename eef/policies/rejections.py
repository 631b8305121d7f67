"""Rejection: what a server states when it does not answer a request, and what follows from it.

Servers put the cause into `error.message`, `detail`, lists, plain text or an HTML page, and under
any status, 200 included. `Rejection.kind` decides what ends: the attempt, the rollout or the run.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

RejectionKind = Literal[
    "transient", "overflow", "conversation", "option", "limit", "key", "quota", "model", "address",
    "unknown",
]  # fmt: skip
"""Kinds of rejection, by what was rejected:

- "transient": nothing; the same request may succeed later;
- "overflow": the conversation, which leaves no room in the model's context, or which has more
  tokens than the account may send in one request or in one minute;
- "conversation": the conversation, by a content filter, by moderation or because it has too many
  bytes;
- "option": the request options in `Rejection.options`;
- "limit": the value of `max_tokens`;
- "key", "quota", "model", "address": every request;
- "unknown": the server does not state it.
"""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "seed": ("random_seed", "randomSeed"),
    "stop": ("stop_sequences", "stopSequences", "stop_sequence", "stop sequences"),
    "top_p": ("topP", "top-p"),
    "max_completion_tokens": (),
    "max_tokens": ("maxTokens", "max_output_tokens", "maxOutputTokens", "max_new_tokens"),
    "temperature": (),
}
"""Request options and their other names; of several that a server names, the first is meant."""

_TRANSIENT = (408, 409, 425, 429)
_WORDS = ("message", "msg", "error_message", "error_msg", "errorMessage", "detail", "details",
          "title", "description", "reason", "raw", "error", "errors", "errorText",
          "status_msg")  # fmt: skip
_CODES = ("code", "type", "status", "reason", "error_code", "errorCode", "error", "innererror",
          "details", "metadata")  # fmt: skip
_NESTED = ("error", "errors", "detail", "details", "innererror", "metadata", "raw", "body",
           "response", "base_resp", "status_msg")  # fmt: skip


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


_RATE = _any(r"per (minute|min|day|hour|second)\b", r"\bTPM\b", r"\bRPM\b", r"\bTPD\b")
_REQUESTED = _any(r"\blimit:?\s*(\d[\d,_.]*\d|\d)\b.{0,60}?\brequested:?\s*(\d[\d,_.]*\d|\d)\b")
_EXCEEDS = (
    r"(exceed\w*|too (long|large|big|many)|(long|larg|great|bigg)er than|\bover\b|overflow\w*|"
    r"surpass\w*|more than|does(n't| not) fit|no room|>)"
)
_CONTEXT = r"context[ _-]?(length|window|size|limit)"
_OVERFLOW = _any(
    rf"{_CONTEXT}.{{0,60}}{_EXCEEDS}",
    rf"{_EXCEEDS}.{{0,80}}{_CONTEXT}",
    r"context the overflows",
    r"max(imum)?( allowed)? (model )?context",
    r"context[_ ]?(length|window)[_ ]?exceeded",
    r"exceed_context_size",
    r"\b(prompt|input|messages?|conversation|inputs?)\b.{0,40}\b(is|are) too long",
    r"prompt[_ ]too[_ ]long",
    rf"(input|prompt)[ _](tokens?|length|token count).{{0,60}}{_EXCEEDS}",
    rf"(token count|(number of|total) (number of )?((input|prompt) )?tokens).{{0,60}}{_EXCEEDS}",
    r"too many (input |prompt )?tokens",
    r"max(imum)?( allowed)? (prompt|input|sequence) (length|tokens?|size)",
    r"max_(prompt|input|seq)\w*(_tokens|_len)\w*",
    r"range of input length",
    r"model token limit",
    r"`?inputs`?( tokens)? (\+|must have less)",
    r"reduce the length of (the|your) (messages|prompt|input|conversation)",
    r"(prompt|input|request|conversation)\b.{0,60}(exceeds?|beyond) (the |its |this |model'?s? )*"
    r"(model'?s? )?(max(imum)? (number of )?tokens|token limit)",
    r"(prompt|request|input) contains \d+ tokens.{0,20}too (large|long)",
    r"tokens_limit_reached",
    r"max_(completion_)?tokens must be .{0,30}\bgot -\d",  # what the context leaves is below zero
)
_CONVERSATION = _any(
    r"content[ _-]?(management |safety )?(policy|filter)\w*",
    r"moderation",
    r"\bflagged\b",
    r"responsible ?ai",
    r"data[_ ]?inspection",
    r"invalid[_ ]prompt",
    r"inappropriate",
    r"guardrail",
    r"prohibited[_ ](content|use)",
    r"\bsensitive\b",
    r"safety (system|filter|setting|reason|polic|check|guideline)s?",
    r"(blocked|rejected|refused|filtered) (by|due to|because of|for) .{0,40}(safety|content|polic)",
    r"violat\w+ .{0,40}(polic|guideline|terms)",
    r"(usage|acceptable use|safety|content) (polic|guideline)\w*",
    r"harmful",
    r"(request|body|payload|prompt|message|entity|content)\b.{0,40}\btoo (large|big|long)",
    r"(request|payload|content|message|entity)_too_(large|long|big)",
    r"(string|array)_above_max_length",
    r"string too long",
    r"reduce your message size",
    r"敏感|不安全|违规",
)
_ACCOUNT = _any(
    r"\b(account|organi[sz]ation|api key|project)\b.{0,60}"
    r"(deactivat|suspend|disabled|terminat|flagged|blocked|banned)"
)
_QUOTA = _any(
    r"insufficient[_ ](quota|balance|credits?|funds?|user[_ ]quota|account balance)",
    r"(balance|credits?)\b.{0,40}(insufficient|not enough|too low|exhausted|depleted|used up)",
    r"billing[_ ](hard_limit|not_active|limit|disabled)|billing_\w+",
    r"exceeded_current_quota",
    r"arrearage|overdue",
    r"(more|enough|no|any|add|purchase|out of|run out of|never purchased)( \w+)? credits?\b",
    r"key limit exceeded",
    r"payment[_ ]required",
    r"spend(ing)? limit",
    r"free ?tier ?only",
    r"余额不足|欠费|额度",
)
_KEY = _any(
    r"(invalid|incorrect|wrong|missing|unknown|expired|no|bad|malformed)[_ ]"
    r"(api[_ -]?key|auth\w*|credentials?|bearer|access token|token provided)",
    r"api[_ -]?key[_ ](is |was )?(not[_ ](valid|found)|invalid|missing|expired|required|incorrect)",
    r"unauthori[sz]ed|unauthenticated|authentication",
)
_MODEL = _any(
    r"\bmodel\w*\b.{0,120}\b(not[ _](found|exist|available|supported|a valid|valid|loaded|active)|"
    r"does ?n[o']t exist|invalid|unknown|decommission\w*|deprecat\w*|no such|"
    r"no access|not have access)",
    r"(invalid|unknown|no such|unsupported|no|nonexistent|missing)[ _](model|deployment)",
    r"deployment.{0,60}(not ?found|not exist)|deploymentnotfound",
    r"not have access to.{0,30}model|not a valid model",
    r"model_not_\w+|model_decommissioned|invalid_model",
    r"no (endpoints?|providers?|channels?|allowed providers)\b.{0,20}(found|available)",
)
_LIMIT = _any(r"too (large|high|big)", r"at most", r"less than", r"<=", r"exceed", r"maximum",
              r"range", r"greater than the", r"between")  # fmt: skip
_PASSING = _any(
    r"overload", r"temporar", r"try again", r"retry", r"time[d -]?out", r"unavailable",
    r"rate.?limit", r"too many requests", r"\bbusy\b", r"capacity", r"internal( server)? error",
    r"internal_error|server_error", r"upstream", r"disconnect", r"connection", r"warming up",
    r"(is )?loading", r"bad gateway", r"throttl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rejection:
    """A response without an answer.

    `words` is what the server states, in one line. `codes` are its machine-readable codes, and
    `parameters` the names it gives to what it rejects. `is_stated` is False if it states nothing.
    """

    status: int
    words: str
    codes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    is_stated: bool = True

    @property
    def kind(self) -> RejectionKind:
        text = " ".join((self.words, *self.codes))
        if self.status == 429 or (self.status == 413 and _RATE.search(text)):
            return self._too_many(text)
        if self.status >= 500:
            return self._failed(text)
        if self.status == 402 or _QUOTA.search(text):
            return "quota"
        if self.status in _TRANSIENT:
            return "transient"
        if self.status == 401 or _ACCOUNT.search(self.words):
            return "key"
        return self._refused(text)

    @property
    def options(self) -> tuple[str, ...]:
        """The request options that the server names, those of its parameters first."""
        named = [each.rsplit(".", 1)[-1].split("[")[0] for each in self.parameters]
        options = [name for name in OPTIONS if {name, *OPTIONS[name]} & set(named)]
        if not options:
            options = [name for name in OPTIONS if _names(self.words, (name, *OPTIONS[name]))]
        return tuple(options)

    def _too_many(self, text: str) -> RejectionKind:
        if _QUOTA.search(text):
            return "quota"
        # a minute's limit is waited for; a request larger than the limit can never be sent
        amounts = _REQUESTED.search(text)
        if amounts:
            limit, requested = (int(re.sub("[,_.]", "", amount)) for amount in amounts.groups())
            return "overflow" if requested > limit else "transient"
        return "overflow" if re.search("request too large", text, re.IGNORECASE) else "transient"

    def _failed(self, text: str) -> RejectionKind:
        """The kind of a server's error; some servers fail on requests that they should refuse."""
        if _is_overflow(text):
            return "overflow"
        if _CONVERSATION.search(" ".join(self.codes)):
            return "conversation"
        if self.options and (self.parameters or _UNSUPPORTED.search(self.words)):
            return "option"
        return "address" if self.status in (501, 505) else "transient"

    def _refused(self, text: str) -> RejectionKind:
        """The kind of a refusal that no retry can change."""
        options = self.options
        limited = bool(options) and options[0].startswith("max_") and _LIMIT.search(self.words)
        if _is_overflow(text):
            return "overflow"
        if _KEY.search(text) and self.status != 404:
            return "key"
        if self.parameters and options:
            return "limit" if limited and not _UNSUPPORTED.search(self.words) else "option"
        if self.status == 413 or (self.status != 404 and _CONVERSATION.search(text)):
            return "conversation"
        if options and (self.status in (200, 400, 422) or _UNSUPPORTED.search(self.words)):
            return "limit" if limited and not _UNSUPPORTED.search(self.words) else "option"
        if self.status == 200 and _PASSING.search(text):
            return "transient"
        if _MODEL.search(text):
            return "model"
        if self.status == 403:
            return "key"
        if self.status in (404, 405, 410) or 300 <= self.status < 400:
            return "address"
        if self.status == 200:
            return self._under_200(text)
        return "unknown"

    def _under_200(self, text: str) -> RejectionKind:
        page = "html" in self.codes or re.search("endpoint|method|route|path|not found", text)
        return "address" if page else "unknown"


_UNSUPPORTED = _any(r"unsupported", r"not supported", r"unknown", r"unrecogni[sz]ed", r"unexpected",
                    r"not (allowed|permitted)", r"extra", r"no such", r"does(n't| not) support",
                    r"that (can )?(support|handle)", r"not implemented",
                    r"cannot find")  # fmt: skip


def read_rejection(status: int, content: bytes) -> Rejection:
    """The rejection in a response. An error under status 200 has the status that its body names."""
    text = content.decode("utf-8", "replace").strip()
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return _read_text(status, text)
    words = list(dict.fromkeys(filter(None, map(_one_line, _words(body)))))
    codes = tuple(dict.fromkeys(_codes(body)))
    is_stated = bool(words)
    if not words:
        words = [text] if body and len(text) < 300 else [", ".join(_keys(body)) or _phrase(status)]
    if status == 200:
        status = next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)), 200)
    return Rejection(
        status, "; ".join(words), codes, tuple(dict.fromkeys(_parameters(body))), is_stated
    )


def _read_text(status: int, text: str) -> Rejection:
    """A rejection in an HTML page, whose title is the best summary, or in plain text."""
    if not text.startswith("<"):
        return Rejection(status, _one_line(text) or _phrase(status))
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    visible = re.sub(r"(?is)<(script|style|head|title)\b.*?</\1>|<!--.*?-->|<[^>]*>", " ", text)
    parts = [_one_line(html.unescape(part)) for part in (title[1] if title else "", visible)]
    return Rejection(status, "; ".join(filter(None, parts)) or _phrase(status), ("html",))


def _is_overflow(text: str) -> bool:
    return bool(_OVERFLOW.search(text)) and not _RATE.search(text)


def _names(words: str, names: Iterable[str]) -> bool:
    """Whether one of `names` occurs as a word of its own."""
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words, re.I) for name in names)


def _words(body: Any) -> Iterator[str]:
    """Every text for people in a body, outer ones first; JSON inside a text is read as well."""
    if isinstance(body, str):
        inner = _inner(body)
        yield from [body] if inner is None else _words(inner)
    elif isinstance(body, list):
        for each in body:
            yield from _words(each)
    elif isinstance(body, Mapping):
        location = body.get("loc")
        if isinstance(location, list) and isinstance(body.get("msg"), str):
            yield f"{'.'.join(map(str, location))}: {body['msg']}"
            return
        for key in _WORDS:
            if isinstance(body.get(key), str):
                yield from _words(body[key])
        for key in _NESTED:
            if isinstance(body.get(key), Mapping | list):
                yield from _words(body[key])


def _codes(body: Any) -> Iterator[str]:
    """Every machine-readable code in a body."""
    for each in _mappings(body):
        for key in _CODES:
            value = each.get(key)
            if isinstance(value, str | int) and not isinstance(value, bool):
                text = str(value)
                if text and " " not in text:
                    yield text


def _parameters(body: Any) -> Iterator[str]:
    """The names in `param`, `parameter`, `field` and `loc`."""
    for each in _mappings(body):
        for key in ("param", "parameter", "field", "property", "propertyName"):
            if isinstance(each.get(key), str):
                yield each[key]
        location = each.get("loc") or each.get("path")
        if isinstance(location, list):
            yield from (part for part in location if isinstance(part, str) and part != "body")


def _mappings(body: Any) -> Iterator[Mapping[str, Any]]:
    """A body's objects, outer ones first."""
    if isinstance(body, str):
        body = _inner(body)
    if isinstance(body, Mapping):
        yield body
        body = [value for key, value in body.items() if key in (*_NESTED, *_WORDS)]
    if isinstance(body, list):
        for each in body:
            yield from _mappings(each)


def _inner(text: str) -> Any:
    """The object or list in a text; None if there is none."""
    start = min((place for place in map(text.find, "{[") if place >= 0), default=-1)
    if start < 0 or not text.rstrip().endswith(("}", "]")):
        return None
    try:
        value = json.loads(text[start:])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) or (value and isinstance(value, list)) else None


def _keys(body: Any) -> list[str]:
    return [f"`{key}`" for key in body] if isinstance(body, Mapping) else []


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _one_line(text: str) -> str:
    return " ".join(text.split())

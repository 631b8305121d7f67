"""Rejections: what servers state, in the forms in which they state it."""

# ruff: noqa: E501 – one response per line, in the server's own words

from __future__ import annotations

import json

import pytest

from eef.policies.rejections import read_rejection


def openai_error(message, **fields):
    return {"error": {"message": message, **fields}}


REJECTIONS = [
    # a full context
    ("overflow", 400, openai_error("This model's maximum context length is 10 tokens", code="context_length_exceeded", param="messages")),
    ("overflow", 400, openai_error("Your input exceeds the context window of this model.")),
    ("overflow", 400, openai_error("x", code="context_length_exceeded")),
    ("overflow", 400, openai_error("request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it", type="exceed_context_size_error", n_ctx=4096)),
    ("overflow", 400, [openai_error("The input token count (140000) exceeds the maximum number of tokens allowed (131072).", code=400, status="INVALID_ARGUMENT")]),
    ("overflow", 400, {"object": "error", "message": "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length is 4096 tokens and your request has 4090 input tokens", "type": "BadRequestError", "param": "max_tokens", "code": 400}),
    ("overflow", 400, openai_error("prompt is too long: 210000 tokens > 200000 maximum")),
    ("overflow", 400, {"message": "Input is too long for requested model."}),
    ("overflow", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4090 `inputs` tokens and 64 `max_new_tokens`", "error_type": "validation"}),
    ("overflow", 400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "code": "3051"}),
    ("overflow", 400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}),
    ("overflow", 400, {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}),
    ("overflow", 400, openai_error("Requested tokens (2100) exceed context window of 2048")),
    ("overflow", 400, openai_error("Invalid request: Your request exceeded model token limit: 8192")),
    ("overflow", 400, {"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"}),
    ("overflow", 400, openai_error("This model's maximum prompt length is 131072 but the request contains 200000 tokens.")),
    ("overflow", 400, openai_error("too many tokens: total number of tokens in the prompt exceeds the limit of 4081")),
    ("overflow", 400, openai_error("Provider returned error", code=400, metadata={"raw": json.dumps(openai_error("Please reduce the length of the messages or completion."))})),
    ("overflow", 413, openai_error("The prompt has 9000 tokens, more than the context window of 8192.")),
    ("overflow", 500, openai_error("the request exceeds the available context size")),
    # one conversation
    ("conversation", 400, openai_error("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", code="content_filter", param="prompt")),
    ("conversation", 400, openai_error("no", innererror={"code": "ResponsibleAIPolicyViolation"})),
    ("conversation", 400, openai_error("Input data may contain inappropriate content.", code="data_inspection_failed")),
    ("conversation", 400, openai_error("Invalid prompt: we've limited access to this content for safety reasons.", code="invalid_prompt")),
    ("conversation", 403, openai_error("Your chosen model requires moderation and your input was flagged", metadata={"reasons": ["violence"]})),
    ("overflow", 413, openai_error("Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 6510, please reduce your message size", type="tokens", code="rate_limit_exceeded")),
    ("conversation", 413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
    ("conversation", 413, ""),
    ("overflow", 400, openai_error("Request body too large for m model. Max size: 8000 tokens.", code="tokens_limit_reached")),
    ("overflow", 429, openai_error("Request too large for m on tokens per min (TPM): Limit 10000, Requested 12345.", code="rate_limit_exceeded")),
    ("overflow", 429, openai_error("Rate limit reached for m on tokens per min (TPM): Limit 10,000, Used 0, Requested 12,345.", code="rate_limit_exceeded")),
    ("overflow", 413, openai_error("Request too large for model `m` on tokens per minute (TPM)", code="rate_limit_exceeded")),
    ("transient", 413, openai_error("Request too large for model `m` on tokens per minute (TPM): Limit 6000, Used 5500, Requested 900", code="rate_limit_exceeded")),
    ("transient", 429, openai_error("Rate limit reached for m on tokens per min (TPM): Limit 10000, Used 9800, Requested 1500. Please try again in 7.8s.", code="rate_limit_exceeded")),
    ("conversation", 400, {"detail": "Please stop: blocked by our content policy"}),
    ("conversation", 400, openai_error("Invalid 'messages[0].content': string too long. Expected a string with maximum length 1048576.", param="messages[0].content", code="string_above_max_length")),
    # the key, the quota, the model, the address
    ("key", 401, openai_error("Incorrect API key provided")),
    ("key", 403, {"detail": "Not authenticated"}),
    ("key", 403, "Forbidden"),
    ("key", 400, [openai_error("API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT")]),
    ("key", 403, openai_error("Your account was flagged and has been disabled")),
    ("quota", 402, openai_error("This request requires more credits", code=402)),
    ("quota", 429, openai_error("You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota")),
    ("quota", 400, openai_error("Your credit balance is too low to access the API")),
    ("quota", 403, {"error": "Your new team doesn't have any credits yet."}),
    ("quota", 403, openai_error("Key limit exceeded (total limit)")),
    ("overflow", 400, openai_error("max_tokens must be at least 1, got -12", param=None)),
    ("quota", 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    ("quota", 400, openai_error("Access denied, please make sure your account is in good standing.", code="Arrearage")),
    ("model", 404, openai_error("The model `m` does not exist.", code="model_not_found")),
    ("model", 400, openai_error("Model Not Exist")),
    ("model", 400, openai_error("m is not a valid model ID")),
    ("model", 400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model"}),
    ("model", 403, openai_error("Project `p` does not have access to model `m`", code="model_not_found")),
    ("address", 404, {"detail": "Not Found"}),
    ("address", 404, "<html><title>404 Not Found</title></html>"),
    ("address", 405, {"detail": "Method Not Allowed"}),
    ("address", 200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    ("address", 200, "<!doctype html><title>Sign in</title><p>Please sign in to the network.</p>"),
    # options
    ("option", 400, openai_error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter")),
    ("option", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_p"], "msg": "Extra inputs are not permitted", "input": 1.0}]}),
    ("option", 400, openai_error("not accepted here", param="seed")),
    ("option", 400, [openai_error('Invalid JSON payload received. Unknown name "seed": Cannot find field.')]),
    ("option", 400, "unknown field: stop"),
    ("limit", 400, openai_error("max_tokens is too large: 99999. This model supports at most 16384 completion tokens", param="max_tokens", code="invalid_value")),
    ("limit", 400, openai_error("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model", param="max_tokens")),
    ("limit", 422, {"error": "max_new_tokens must be at most 512"}),
    # later
    ("transient", 429, openai_error("Rate limit reached, please try again in 2 s")),
    ("transient", 429, [openai_error("You exceeded your current quota, please check your plan", status="RESOURCE_EXHAUSTED")]),
    ("transient", 503, "Service Unavailable"),
    ("transient", 529, openai_error("Overloaded")),
    ("transient", 200, openai_error("Provider returned error", code=502)),
    ("transient", 200, {"error": "model is loading, try again later"}),
    ("overflow", 502, openai_error("litellm.ContextWindowExceededError: BadRequestError")),
    ("conversation", 500, openai_error("failed", code="content_filter")),
    ("conversation", 400, openai_error("litellm.ContentPolicyViolationError: no")),
    ("option", 500, {"detail": "TypeError: create() got an unexpected keyword argument 'seed'"}),
    ("option", 404, openai_error("No endpoints found that support the requested parameters: seed")),
    ("option", 400, {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted', 'input': 1}]"}),
    ("model", 404, openai_error("model \"m\" not found, names are case sensitive")),
    ("quota", 200, {"choices": [], "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    ("address", 501, "<title>501 Unsupported method ('POST')</title>"),
    ("transient", 200, {"error": "The model is currently unavailable, try again later"}),
    ("unknown", 400, openai_error("Bad request")),
    ("unknown", 400, ""),
    ("unknown", 422, {}),
    ("unknown", 200, {"object": "list", "data": []}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "status", "body"), REJECTIONS)
def test_what_a_server_rejects_is_found_in_every_form(kind, status, body):
    content = body if isinstance(body, str) else json.dumps(body)
    assert read_rejection(status, content.encode()).kind == kind


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (openai_error("no"), "no"),
        ({"error": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"detail": {"error": {"message": "no"}}}, "no"),
        ({"errors": [{"message": "no"}, {"message": "never"}]}, "no; never"),
        ([openai_error("no")], "no"),
        ({"detail": [{"loc": ["body", "top_p"], "msg": "no"}]}, "body.top_p: no"),
        (openai_error('litellm: {"error": {"message": "no"}}'), "no"),
        ("  no\n way ", "no way"),
        ("<html><head><title>A &amp; B</title></head><body><p>no</p></body></html>", "A & B; no"),
        ("<html><title>Sign in</title></html>", "Sign in"),
        ("", "Bad Request"),
        ({}, "Bad Request"),
        ({"success": False}, '{"success": false}'),
    ],
)
def test_the_servers_own_words_are_read_from_any_body(body, words):
    content = body if isinstance(body, str) else json.dumps(body)
    assert read_rejection(400, content.encode()).words == words


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (openai_error("Unsupported parameter", param="seed"), ("seed",)),
        ({"detail": [{"loc": ["body", "stop", 0], "msg": "no"}]}, ("stop",)),
        ({"detail": [{"loc": ["body", "seed"], "msg": "no"}, {"loc": ["body", "top_p"], "msg": "no"}]}, ("seed", "top_p")),
        ({"message": "Unrecognized request argument supplied: temperature"}, ("temperature",)),
        ({"error": "does not support the stopSequences field"}, ("stop",)),
        ("Unsupported: 'max_completion_tokens'", ("max_completion_tokens",)),
        ("the request was stopped, a non-stop process", ()),
    ],
)  # fmt: skip
def test_options_are_found_wherever_they_are_named(body, options):
    content = body if isinstance(body, str) else json.dumps(body)
    assert read_rejection(400, content.encode()).options == options

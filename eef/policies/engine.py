"""EnginePolicy: a student that inference servers play, by token ids of our own renderer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from eef.policies.completions import CompletionsClient
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.renderer import Renderer
from eef.trajectory import Author


class EnginePolicy:
    """A policy behind the servers of a client, which serve the student as `model`.

    Prompts are the ids of `renderer`, and the text of a completion is that of the sampled ids: a
    server neither renders nor decodes. `context` is the longest conversation it takes, in tokens.

    Its completions are reproducible to the record, not to the bit, so `replays` is "alone". Errors
    are those of `CompletionsClient`.
    """

    replays: Replays = "alone"

    def __init__(
        self,
        client: CompletionsClient,
        model: str,
        renderer: Renderer,
        *,
        author: Author,
        context: int,
    ) -> None:
        self.author = author
        self.tools = renderer.tools
        self._client, self._model = client, model
        self._renderer, self._context = renderer, context

    async def complete(
        self, conversation: Conversation, seed: int, sampling: Sampling, session: str
    ) -> Completion:
        prompt = self._renderer.prompt(conversation)
        room = self._context - len(prompt)
        if room <= 0:
            return Completion(text="", finish="overflow", prompt_tokens=len(prompt))
        stops = self._renderer.stop_ids
        sampled = await self._client.complete(
            self._model,
            prompt,
            seed=seed,
            sampling=replace(sampling, max_tokens=min(sampling.max_tokens, room)),
            stops=stops,
            session=session,
        )
        if sampled.finish in ("overflow", "error"):
            return Completion(text=sampled.words, finish=sampled.finish, prompt_tokens=len(prompt))
        written = sampled.ids
        if written and written[-1] in stops:
            written = written[:-1]
        text, tokens = self._renderer.read_sampled(written, prompt)
        return Completion(
            text=text,
            finish=sampled.finish,
            prompt_tokens=len(prompt),
            cached_tokens=sampled.cached_tokens,
            generated_tokens=len(sampled.ids),
            tokens=tokens,
        )

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        async def complete_all() -> list[Completion]:
            try:
                turns = enumerate(zip(conversations, seeds, strict=True))
                asked = (self.complete(*turn, sampling, str(number)) for number, turn in turns)
                return list(await asyncio.gather(*asked))
            finally:
                await self.disconnect()

        return asyncio.run(complete_all())

    async def disconnect(self) -> None:
        await self._client.disconnect()

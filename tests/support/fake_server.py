"""A fake of the servers that `backend=server` asks, in this process: no vLLM, SGLang or llama.cpp.

It decodes greedily with two real models and answers in the documented shape of each, counting by
its convention: a text's first token comes from the prompt's pass, and what is drafted and accepted
after the text's end is counted. Faults are injected by request number.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from aiohttp import web

from lm_eval_specfair.serving.event_loop import LoopThread
from lm_eval_specfair.steps import agreeing_by_marks

APIS = ("vllm", "sglang", "llamacpp")


@dataclass
class Faults:
    """What goes wrong: by the number of a completion request, from 1; a number is a status.

    `cut` ends the stream in the middle, `hang` sends nothing, `drop` closes the connection,
    `garbage` answers no JSON, `error` sends an error as an event.
    """

    by_number: dict[int, str | int] = field(default_factory=dict)
    always: str | int | None = None
    retry_after: str | None = None
    redirect: str | None = None
    needs_key: str | None = None
    echo_key: bool = False
    contradict: bool = False
    text: str | None = None  # in place of every text


class FakeServer:
    """Start with `with`; `url` is its address."""

    def __init__(
        self, api: str, target: Any, drafter: Any, tokenizer: Any, *, name: str = "pair",
        length: int = 4, counts: str = "detailed", eos: frozenset[int] = frozenset(),
        faults: Faults | None = None, simulated: Any = None, tls: Any = None,
        waits_for: int = 0,
    ) -> None:  # fmt: skip
        self.api, self.name, self.length, self.counts = api, name, length, counts
        self.target, self.drafter, self.tokenizer, self.eos = target, drafter, tokenizer, eos
        self.faults = faults or Faults()
        self.simulated, self.tls = simulated, tls
        self.waits_for = waits_for  # requests that are to be under way before the first is answered
        self.root = f"models/{name}"
        self.port = 0
        self.num_asked = self.under_way = self.most_under_way = 0
        self.keys: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.totals = {"drafts": 0, "draft_tokens": 0, "accepted_tokens": 0, "tokens": 0}
        self.per_position = [0] * length
        self._loop = LoopThread()
        self._runner: web.AppRunner | None = None
        self._transports: list[asyncio.Transport] = []
        self._made: dict[Any, Any] = {}

    # ------------------------------------------------------------------ up and down

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> "FakeServer":
        self._loop.run(self._start())
        return self

    def stop(self) -> None:
        if self._runner is not None:
            self._loop.run(self._stop(self._runner))
            self._runner = None

    def __enter__(self) -> "FakeServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.close()

    async def _stop(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        # What nobody reads any more would keep its socket open.
        for transport in self._transports:
            transport.abort()
        self._transports.clear()
        # What hung is cancelled, and sockets that are closing have a turn of the loop to do so.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.02)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/{path:.*}", self._get)
        app.router.add_post("/{path:.*}", self._post)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        made = server.connection_made

        def connection_made(handler: Any, transport: Any) -> None:
            # Kept here: aiohttp forgets the connections that come in while it shuts down.
            self._transports.append(transport)
            made(handler, transport)

        server.connection_made = connection_made  # type: ignore[method-assign]
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    # ------------------------------------------------------------------ what it says of itself

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if self.faults.redirect:
            raise web.HTTPTemporaryRedirect(self.faults.redirect)
        if self.faults.needs_key and self.keys[-1] != f"Bearer {self.faults.needs_key}":
            return web.json_response({"error": {"message": f"bad key {self.keys[-1]}"}}, status=401)
        found = self._pages().get(request.path)
        if found is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    def _pages(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": self.name, "object": "model", "created": self.num_asked}
        entry |= {"owned_by": self.api, "root": self.root}
        pages: dict[str, Any] = {"/v1/models": {"object": "list", "data": [entry]}}
        if self.api == "vllm":
            entry["max_model_len"] = 2048
            pages["/version"] = {"version": "0.32.0"}
            if self.simulated:
                shown = f"SpeculativeConfig(synthetic_acceptance_length={self.simulated})"
                pages["/server_info"] = {"vllm_config": shown}
        elif self.api == "sglang":
            pages["/server_info"] = {"version": "0.5.23", "model_path": self.root}
            pages["/server_info"] |= {"speculative_algorithm": "STANDALONE"}
        else:
            entry["meta"] = {"n_vocab": len(self.tokenizer), "n_ctx": 2048, "size": 12345}
            pages["/props"] = {"model_path": self.root, "build_info": "b11434"}
        if self.counts != "none":
            pages["/metrics"] = self._metrics()
        return pages

    def _metrics(self) -> str:
        prefix = "llamacpp" if self.api == "llamacpp" else "vllm"
        tokens = "tokens_predicted" if self.api == "llamacpp" else "generation_tokens"
        lines = [
            f'{prefix}:spec_decode_num_{name}_total{{engine="0"}} {float(value)}'
            for name, value in self.totals.items()
            if name != "tokens"
        ]
        lines += [
            f'{prefix}:spec_decode_num_accepted_tokens_per_pos_total{{position="{n}"}} {value}'
            for n, value in enumerate(self.per_position)
        ]
        lines.append(f"{prefix}:{tokens}_total {self.totals['tokens']}")
        return "# HELP nothing\n" + "\n".join(lines) + "\n"

    # ------------------------------------------------------------------ texts

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if self.faults.redirect:
            raise web.HTTPTemporaryRedirect(self.faults.redirect)
        if self.faults.needs_key and self.keys[-1] != f"Bearer {self.faults.needs_key}":
            return web.json_response({"error": {"message": f"bad key {self.keys[-1]}"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        self.num_asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(1000):
                if self.most_under_way >= self.waits_for:
                    break
                await asyncio.sleep(0.01)
            return await self._answer(request, body)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = self.faults.by_number.get(self.num_asked, self.faults.always)
        if isinstance(fault, int):
            headers = {"Retry-After": self.faults.retry_after} if self.faults.retry_after else {}
            said = f"out of sorts; your key is {self.keys[-1]}" if self.faults.echo_key else "no"
            return web.json_response({"error": {"message": said}}, status=fault, headers=headers)
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "drop":
            assert request.transport is not None
            request.transport.close()
        await asyncio.sleep(0.002)
        if "prompt_logprobs" in body or body.get("return_logprob"):
            return web.json_response(self._scores(body))
        events = [{"error": {"message": "engine died"}}] if fault == "error" else []
        events += self._events(request.path, body)
        if fault == "cut":
            events = events[: len(events) // 2]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            data = "no JSON" if fault == "garbage" else json.dumps(event)
            await response.write(f"data: {data}\n\n".encode())
        if fault != "cut":
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _text(self, prompt: list[int], limit: int) -> tuple[list[int], list[bool]]:
        """The target's greedy text, somewhat longer, and where the drafter would have had it."""
        key = (tuple(prompt), limit)
        if key not in self._made:
            tokens = torch.tensor([prompt])
            with torch.no_grad():
                for _ in range(limit + self.length + 1):
                    scores = self.target(input_ids=tokens).logits[0, -1]
                    tokens = torch.cat([tokens, scores.argmax().view(1, 1)], 1)
                guesses = self.drafter(input_ids=tokens).logits[0, :-1].argmax(-1)
            text = tokens[0, len(prompt) :].tolist()
            own = guesses[len(prompt) - 1 :].tolist()
            self._made[key] = text, [one == other for one, other in zip(text, own, strict=True)]
        return self._made[key]

    def _events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        chat = path.endswith("/chat/completions")
        prompt = body.get("prompt")
        if chat:
            prompt = "\n".join(f"{each['role']}: {each['content']}" for each in body["messages"])
        if isinstance(prompt, str):
            prompt = self.tokenizer(prompt)["input_ids"]
        limit = int(body["max_tokens"])
        text, marks = self._text(prompt, limit)
        num, reason, matched = self._end(text, limit, body)
        shortens = self.api == "llamacpp"
        agreeing = agreeing_by_marks(marks)
        steps, place = [(0, 0)], 1
        while place < num:
            wanted = min(self.length, limit - place - 1) if shortens else self.length
            steps.append(agreeing(place, wanted) if wanted and self.drafter is not None else (0, 0))
            place += steps[-1][1] + 1
        self._count(steps, num)
        return getattr(self, f"_{self.api}_events")(
            prompt, text[:num], steps, reason, matched, chat=chat, body=body
        )

    def _scores(self, body: dict[str, Any]) -> dict[str, Any]:
        """The log-probabilities of a prompt's tokens, and the likeliest at each place."""
        tokens = body.get("input_ids") or body["prompt"]
        with torch.no_grad():
            scores = self.target(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        best = scores.argmax(-1).tolist()
        own = [float(scores[n - 1, tokens[n]]) for n in range(1, len(tokens))]
        if self.api == "sglang":
            first = body["logprob_start_len"]
            places = range(first + 1, len(tokens))
            listed = [[own[n - 1], tokens[n], None] for n in places]
            tops = [[[float(scores[n - 1, best[n - 1]]), best[n - 1], None]] for n in places]
            head = [[None, tokens[first], None]]
            return {
                "text": "",
                "meta_info": {
                    "input_token_logprobs": head + listed, "input_top_logprobs": [None, *tops]
                },
            }  # fmt: skip
        given: list[Any] = [None]
        for n in range(1, len(tokens)):
            rank = int((scores[n - 1] > own[n - 1]).sum()) + 1
            given.append({str(tokens[n]): {"logprob": own[n - 1], "rank": rank}})
        choice = {"text": "", "finish_reason": "length", "prompt_logprobs": given}
        return {"choices": [choice], "usage": {"prompt_tokens": len(tokens)}}

    def _end(self, text: list[int], limit: int, body: dict[str, Any]) -> tuple[int, str, Any]:
        """Tokens of the text, why it ends, and what ended it."""
        for number in range(1, limit + 1):
            last = text[number - 1]
            if last in self.eos and not body.get("ignore_eos"):
                return number, "eos", last
            if last in (body.get("stop_token_ids") or ()):
                return number, "token", last
            spelled = self.tokenizer.decode(text[:number])
            for stop in body.get("stop") or ():
                if stop in spelled:
                    return number, "stop", stop
        return limit, "length", None

    def _count(self, steps: list[tuple[int, int]], num: int) -> None:
        drafting = [step for step in steps if step[0]]
        self.totals["drafts"] += len(drafting)
        self.totals["draft_tokens"] += sum(drafted for drafted, _ in drafting)
        self.totals["accepted_tokens"] += sum(accepted for _, accepted in drafting)
        self.totals["tokens"] += num
        for _, accepted in drafting:
            for place in range(accepted):
                self.per_position[place] += 1

    def _spelled(self, tokens: list[int], reason: str, matched: Any, *, included: bool) -> str:
        if self.faults.text is not None:
            return self.faults.text
        if reason == "token" and not included:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.split(matched)[0] if reason == "stop" else text

    def _chunks(
        self, tokens: list[int], steps: list[tuple[int, int]], text: str, *, chat: bool
    ) -> list[dict[str, Any]]:
        """An event for each step, with its tokens; the text in equal parts."""
        choices, place = [], 0
        for number, (_, accepted) in enumerate(steps):
            own = tokens[place : place + accepted + 1]
            place += len(own)
            share = slice(len(text) * number // len(steps), len(text) * (number + 1) // len(steps))
            said = {"delta": {"content": text[share]}} if chat else {"text": text[share]}
            choices.append({"index": 0, **said, "token_ids": own, "finish_reason": None})
        return choices

    def _vllm_events(self, prompt, tokens, steps, reason, matched, *, chat, body):
        text = self._spelled(
            tokens, reason, matched, included=body.get("include_stop_str_in_output")
        )
        choices = self._chunks(tokens, steps, text, chat=chat)
        choices[0]["prompt_token_ids"] = prompt
        choices[-1]["finish_reason"] = "length" if reason == "length" else "stop"
        choices[-1]["stop_reason"] = matched if reason in ("token", "stop") else None
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.name}
        events = [{**head, "choices": [choice]} for choice in choices]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        last: dict[str, Any] = {**head, "choices": [], "usage": usage}
        drafting = [step for step in steps if step[0]]
        if self.counts in ("summary", "detailed") and reason != "stop":
            accepted = [kept for _, kept in drafting]
            speculation: dict[str, Any] = {
                "acceptance_histogram": [accepted.count(n) for n in range(self.length + 1)],
                "num_spec_steps": len(drafting) + (1 if self.faults.contradict else 0),
                "num_accepted_draft_tokens": sum(accepted),
                "num_draft_tokens": sum(drafted for drafted, _ in drafting),
                "num_spec_tokens": self.length,
            }
            if self.counts == "detailed" and drafting:
                speculation["per_step_accepted"] = accepted
                speculation["per_step_drafted"] = [drafted for drafted, _ in drafting]
            last["metrics"] = {"speculative_decoding": speculation}
        return [*events, last]

    def _sglang_events(self, prompt, tokens, steps, reason, matched, *, chat, body):
        choices = self._chunks(
            tokens, steps, self._spelled(tokens, reason, matched, included=False), chat=chat
        )
        choices[0]["prompt_token_ids"] = prompt
        choices[-1]["finish_reason"] = "length" if reason == "length" else "stop"
        choices[-1]["matched_stop"] = matched
        head = {"id": "1", "object": "text_completion", "created": 1, "model": body["model"]}
        events: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
        accepted = [kept for _, kept in steps[1:]]
        if body.get("return_spec_tokens_details") and accepted and self.counts != "none":
            details = {
                "spec_verify_ct": len(accepted), "spec_num_correct_drafts": sum(accepted),
                "spec_num_proposed_drafts": self.length * len(accepted),
                "spec_correct_drafts_histogram": [
                    accepted.count(n) for n in range(max(accepted) + 1)
                ],
            }  # fmt: skip
            events.append({**head, "choices": [], "sglext": {"spec_tokens_details": details}})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        return [*events, {**head, "choices": [], "usage": usage}]

    def _llamacpp_events(self, prompt, tokens, steps, reason, matched, *, chat, body):
        text = self._spelled(tokens, reason, matched, included=True)
        events, place, drafted, accepted = [], 0, 0, 0
        for more, kept in steps:
            drafted, accepted = drafted + more, accepted + kept
            for token in tokens[place : place + kept + 1]:
                place += 1
                timings = {"predicted_n": place, "prompt_n": len(prompt)}
                if drafted and self.counts != "none":
                    timings |= {"draft_n": drafted, "draft_n_accepted": accepted}
                share = slice(
                    len(text) * (place - 1) // len(tokens), len(text) * place // len(tokens)
                )
                if chat:
                    said: dict[str, Any] = {
                        "choices": [{"delta": {"content": text[share]}, "finish_reason": None}]
                    }
                else:
                    said = {"content": text[share], "tokens": [token], "stop": False}
                    said |= {"tokens_predicted": place, "tokens_evaluated": len(prompt)}
                events.append({**said, "timings": timings})
        kind = {"eos": "eos", "length": "limit"}.get(reason, "word")
        if chat:
            end = "length" if reason == "length" else "stop"
            usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
            last = {"choices": [{"delta": {}, "finish_reason": end}], "timings": timings}
            return [*events, last, {"choices": [], "usage": usage, "timings": timings}]
        last = {"content": "", "tokens": [], "stop": True, "stop_type": kind, "timings": timings}
        last |= {"tokens_predicted": len(tokens), "tokens_evaluated": len(prompt)}
        return [*events, last]

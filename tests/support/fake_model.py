#!/usr/bin/env python3
"""A fake model on loopback, for running the real agent programs without any network.

Speaks just enough of three protocols, always streamed: claude (`/v1/messages`), codex (`/v1/responses`) and opencode
(`/v1/chat/completions`). The first request of a conversation that offers a shell tool is answered with one call of that
tool; the request that brings its result is answered with a text and the end. Side questions (titles, token counts) get
a short answer. Standard library only.

    fake_model.py --port-file FILE --command 'SHELL LINE' [--command ...] [--expect TEXT] [--expect ...] [--key KEY]
                  [--scenario work|rate-limit] [--log FILE]

The port is written to FILE once the server listens. Of several commands (and texts) the first conversation gets the
first, the second the second, and so on; the last one stays. With --expect, a request that offers tools but does not
hold TEXT is answered with 400, so a prompt that got lost is seen; with --key, one that does not bring KEY is answered
with 401. Each request leaves one JSON line in the log, with the number of its conversation and the time.
"""

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHELL_TOOLS = {"Bash", "bash", "exec_command", "shell", "shell_command", "local_shell"}


def tool_names(request):
    """Names of the tools that a request offers, in any of the three forms."""
    names = set()
    for tool in request.get("tools") or []:
        name = tool.get("name") or (tool.get("function") or {}).get("name") or tool.get("type")
        if name:
            names.add(name)
    return names


def holds_result(kind, request):
    """Whether a request brings the answer of a tool call."""
    if kind == "claude":
        blocks = [b for m in request.get("messages", []) if isinstance(m.get("content"), list) for b in m["content"]]
        return any(b.get("type") == "tool_result" for b in blocks)
    if kind == "codex":
        return any(item.get("type", "").endswith("_call_output") for item in request.get("input", []))
    return any(m.get("role") == "tool" for m in request.get("messages", []))


class Fake(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    options = None
    log_lock = threading.Lock()
    count_lock = threading.Lock()
    conversations = 0

    def log_message(self, *_):
        """Keeps standard error for real trouble."""

    def note(self, **what):
        if self.options.log:
            with self.log_lock, open(self.options.log, "a", encoding="utf-8") as log:
                log.write(json.dumps({"at": time.time(), "method": self.command, "path": self.path, **what}) + "\n")

    def plain(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self):
        self.note()
        self.plain(200, {})

    def do_GET(self):
        self.note()
        if self.path.split("?")[0].endswith("/models"):
            self.plain(200, {"object": "list", "data": [], "models": []})
        else:
            self.plain(404, {"error": {"message": "not here", "type": "not_found_error"}})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.split("?")[0]
        routes = {"/v1/messages": "claude", "/v1/responses": "codex", "/v1/chat/completions": "opencode"}
        kind = routes.get(path)
        try:
            request = json.loads(raw)
        except ValueError:
            request = None
        if path == "/v1/messages/count_tokens":
            self.note()
            return self.plain(200, {"input_tokens": 12})
        if kind is None or not isinstance(request, dict):
            self.note(unknown=True)
            return self.plain(404, {"error": {"message": "not here", "type": "not_found_error"}})

        tools = sorted(tool_names(request) & SHELL_TOOLS)
        answered = holds_result(kind, request)
        with self.count_lock:
            Fake.conversations += bool(tools and not answered)
            number = max(Fake.conversations, 1)
        texts, commands = self.options.expect, self.options.command
        expected = not texts or texts[min(number, len(texts)) - 1].encode() in raw
        self.note(kind=kind, tools=tools, expected=expected, answered=answered, bytes=len(raw), conversation=number)
        if self.options.key and self.options.key not in self.headers.get("x-api-key", self.headers.get("authorization", "")):
            return self.plain(401, {"type": "error", "error": {"type": "authentication_error", "message": "the key did not arrive"}})
        if self.options.scenario == "rate-limit":
            body = {"type": "error", "error": {"type": "rate_limit_error", "message": "Rate limit reached", "code": "rate_limit_exceeded"}}
            return self.plain(429, body, [("retry-after", "1")])
        if tools and not expected:
            return self.plain(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "the prompt did not arrive"}})
        self.line = commands[min(number, len(commands)) - 1]
        call = tools[0] if tools and not answered else None
        getattr(self, kind)(request, call)

    # -------------------------------------------------------------------------------------------- streams

    def begin(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data, name=None):
        text = data if isinstance(data, str) else json.dumps(data)
        head = f"event: {name}\n" if name else ""
        self.wfile.write(f"{head}data: {text}\n\n".encode())
        self.wfile.flush()

    def typed(self, kind, **data):
        self.event({"type": kind, **data}, kind)

    def claude(self, request, call):
        usage = {"input_tokens": 12, "output_tokens": 1}
        message = {"id": "msg_2" if call is None else "msg_1", "type": "message", "role": "assistant", "content": [],
                   "model": request.get("model", "fake"), "stop_reason": None, "stop_sequence": None, "usage": usage}
        if not request.get("stream"):
            done = {**message, "content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}
            return self.plain(200, done)
        self.begin()
        self.typed("message_start", message=message)
        if call:
            block = {"type": "tool_use", "id": "toolu_1", "name": call, "input": {}}
            self.typed("content_block_start", index=0, content_block=block)
            given = json.dumps({"command": self.line, "description": "do the work"})
            self.typed("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": given})
        else:
            self.typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
            self.typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "Done."})
        self.typed("content_block_stop", index=0)
        reason = "tool_use" if call else "end_turn"
        self.typed("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 20 if call else 5})
        self.typed("message_stop")

    def codex(self, _request, call):
        self.begin()
        ident = "resp_1" if call else "resp_2"
        self.typed("response.created", response={"id": ident})
        if call:
            given = {"cmd": self.line} if call == "exec_command" else {"command": ["sh", "-c", self.line]}
            if call == "shell_command":
                given = {"command": self.line}
            item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": call, "arguments": json.dumps(given)}
        else:
            item = {"type": "message", "id": "m_1", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}
        self.typed("response.output_item.added", output_index=0, item=item)
        self.typed("response.output_item.done", output_index=0, item=item)
        usage = {"input_tokens": 20, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 7,
                 "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 27}
        self.typed("response.completed", response={"id": ident, "usage": usage})

    def opencode(self, request, call):
        self.begin()
        base = {"id": "chat_1", "object": "chat.completion.chunk", "created": 0, "model": request.get("model", "fake")}

        def chunk(delta, reason=None):
            self.event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        if call:
            given = json.dumps({"command": self.line, "description": "do the work"})
            function = {"name": call, "arguments": given}
            chunk({"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})
            chunk({}, "tool_calls")
        else:
            chunk({"role": "assistant", "content": "Done."})
            chunk({}, "stop")
        usage = {"prompt_tokens": 20 if call else 22, "completion_tokens": 7 if call else 3, "total_tokens": 27 if call else 25}
        self.event({**base, "choices": [], "usage": usage})
        self.event("[DONE]")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--command", action="append")
    parser.add_argument("--expect", action="append")
    parser.add_argument("--key")
    parser.add_argument("--scenario", choices=["work", "rate-limit"], default="work")
    parser.add_argument("--log")
    Fake.options = parser.parse_args()
    Fake.options.command = Fake.options.command or [os.environ.get("FAKE_MODEL_COMMAND", "true")]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads = True
    # The file appears whole: whoever waits for it can read it at once.
    with open(Fake.options.port_file + ".new", "w", encoding="utf-8") as file:
        file.write(str(server.server_address[1]))
    os.replace(Fake.options.port_file + ".new", Fake.options.port_file)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()

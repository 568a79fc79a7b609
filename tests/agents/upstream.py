"""A provider of chat completions that follows a script, and fails where the script says so.

Which turn a request is at is read from the request, not counted: whoever asks again hears the same.
A turn's faults are used up one by one, each by one request; then the turn is told.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OVERLOADED = (503, {"error": {"message": "The engine is currently overloaded, please try again later"}})
LIMITED = (429, {"status": 429, "title": "Too Many Requests"})
BROKEN = (500, {"error": {"message": "internal error"}})


def too_long(prompt, limit):
    text = f"This model's maximum context length is {limit} tokens. However, your messages resulted in {prompt} tokens. Please reduce the length of the messages."
    return 400, {"error": {"message": text, "code": "context_length_exceeded"}}


class Turn:
    """What the model does: thinks, says something, calls tools [(name, arguments)]. `faults` are
    statuses with bodies, or "break in thoughts", "break in text", "break in
    arguments", "empty"."""

    def __init__(self, say="", think="", calls=(), faults=(), tokens=2000):
        self.say, self.think, self.calls, self.tokens = say, think, list(calls), tokens
        self.faults = list(faults)


class Upstream:
    """`turn_of(body)` finds the turn of a request: its place in `script` (-1: the last), or a Turn of
    its own."""

    def __init__(self, keys, turn_of):
        self.keys, self.script, self.turn_of = keys, [], turn_of
        self.lock = threading.Lock()
        self.seen = []  # (turn, key's place, body, what was answered)
        handler = type("Handler", (Handler,), {"upstream": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, key, body):
        """The turn, and the fault instead of it."""
        place = self.turn_of(body)
        turn = place if isinstance(place, Turn) else self.script[min(place, len(self.script) - 1)]
        with self.lock:
            fault = turn.faults.pop(0) if turn.faults else None
            self.seen.append((place, key, body, fault))
        return turn, fault

    def at(self, place):
        """The bodies of the requests that were told this turn."""
        return [body for turn, _, body, fault in self.seen if turn == place and fault is None]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.whole(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/chat/completions"):
            return self.whole(404, {"error": {"message": "no such path"}})
        key = self.upstream.keys.index(self.headers["authorization"].removeprefix("Bearer "))
        turn, fault = self.upstream.answer(key, body)
        if isinstance(fault, tuple):
            return self.whole(*fault)
        if not body.get("stream"):
            message = {"role": "assistant", "content": turn.say or None}
            calls = [call(at, *one) for at, one in enumerate(turn.calls)]
            if calls:
                message["tool_calls"] = calls
            if fault == "empty":
                message = {"role": "assistant", "content": ""}
            choice = {"index": 0, "message": message, "finish_reason": finish(turn)}
            return self.whole(200, {"id": "c", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage(turn)})
        self.stream(turn, fault)

    def whole(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, turn, fault):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            self.deltas(turn, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def deltas(self, turn, fault):
        self.event({"role": "assistant", "content": ""})
        if fault != "empty":
            for piece in pieces(turn.think):
                self.event({"reasoning_content": piece})
            if fault == "break in thoughts":
                return self.cut()
            for piece in pieces(turn.say):
                self.event({"content": piece})
            if fault == "break in text":
                return self.cut()
            for at, (name, arguments) in enumerate(turn.calls):
                one = call(at, name, arguments)
                text = one["function"].pop("arguments")
                self.event({"tool_calls": [one]})
                halves = pieces(text)
                for half, piece in enumerate(halves):
                    if fault == "break in arguments" and half == len(halves) // 2:
                        return self.cut()
                    self.event({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
        self.event({}, finish(turn))
        self.chunk(f"data: {json.dumps({'choices': [], 'usage': usage(turn)})}\n\ndata: [DONE]\n\n")
        self.chunk("")

    def event(self, delta, end=None):
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        self.chunk(f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n")

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def cut(self):
        time.sleep(0.5)  # so that the client has seen what came before
        self.close_connection = True


def call(at, name, arguments):
    # Unique over the conversation only by the turn's arguments, as with many servers.
    return {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def pieces(text):
    return [text[at : at + 12] for at in range(0, len(text), 12)]


def finish(turn):
    return "tool_calls" if turn.calls else "stop"


def usage(turn):
    return {"prompt_tokens": turn.tokens, "completion_tokens": 20, "total_tokens": turn.tokens + 20}

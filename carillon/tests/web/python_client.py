"""A chat client by python-socketio, as its documentation has it: told where, by which transports and with which token, it joins,
says and hears, and prints one line per thing that came to it. Knows nothing of Carillon but the chat convention."""

import json
import queue
import sys

import socketio

PATIENCE_S = 30

url, transports, token, room = sys.argv[1:]
client = socketio.Client(reconnection=False)
heard = queue.Queue()


def tell(*what):
    # One write, since events come on threads of their own.
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@client.on("connect_error")
def on_connect_error(error):
    tell("connect_error", error)


@client.on("connected")
def on_connected(who, _position):
    tell("connected", who)


@client.on("chat:message")
def on_message(message, _position):
    heard.put(message)


try:
    client.connect(url, auth={"token": token}, transports=transports.split(","), wait_timeout=PATIENCE_S)
except socketio.exceptions.ConnectionError:
    sys.exit(3)

joined = client.call("chat:join", room, timeout=PATIENCE_S)
tell("joined", joined["room"], joined["recovered"])
stored = client.call("chat:message", {"roomId": room, "text": "from python: ä"}, timeout=PATIENCE_S)
tell("stored", stored["offset"])
for _ in range(2):
    message = heard.get(timeout=PATIENCE_S)
    tell("message", message["offset"], message["userId"], message["text"])
refused = client.call("join", "user:somebody-else", timeout=PATIENCE_S)
tell("refused", refused["error"]["code"])
tell("transport", client.transport())
client.disconnect()

// uWebSockets.js with its own publish and subscribe.
import uws from "uwebsockets";
import { answer, connected, message, ready } from "./dialect.js";

const decoder = new TextDecoder();
const app = uws.App().ws("/*", {
  compression: uws.DISABLED,
  maxPayloadLength: 1 << 20,
  maxBackpressure: 64 << 20,
  upgrade: (res, req, context) =>
    res.upgrade(
      {},
      req.getHeader("sec-websocket-key"),
      req.getHeader("sec-websocket-protocol"),
      req.getHeader("sec-websocket-extensions"),
      context,
    ),
  open: (socket) => socket.send(connected),
  message: (socket, text) => {
    const said = JSON.parse(decoder.decode(text));
    if (said.type === "join") socket.subscribe(said.room);
    else app.publish(said.room, message(said));
    socket.send(answer(said));
  },
});
app.listen("127.0.0.1", 0, (listening) => ready(uws.us_socket_local_port(listening)));

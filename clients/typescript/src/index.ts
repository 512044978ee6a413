// @carillon/client: rooms that remember, from a browser, a worker, Node, Deno or Bun.

export { Carillon, type CarillonOptions } from "./carillon.js";
export type { Clock } from "./clock.js";
export type { Connection, ConnectionState, SocketLike, WebSocketLike } from "./connection.js";
export { Emitter, type Listener } from "./emitter.js";
export { CarillonError, type LocalCode, type Unpublished } from "./error.js";
export type { Ephemeral, Gap, History, Limits, Member, Message, Position, Presence, Published } from "./frames.js";
export type { HistoryOptions, PublishOptions, Room, RoomKinds, RoomOptions, RoomState } from "./room.js";
export type { TokenSource } from "./token.js";

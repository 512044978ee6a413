// Where WebSocket is blocked.

import type { CarillonOptions } from "./carillon.js";
import type { Clock } from "./clock.js";
import type { SocketLike } from "./connection.js";

export async function open(url: URL, token: string, options: CarillonOptions, clock: Clock, probe?: () => SocketLike): Promise<SocketLike> {
  throw new Error(`${url} ${token} ${options} ${clock} ${probe}`);
}

// Messages of a room can no longer be had: finds out which, tells, and goes on with what is left. Rare, and so not part of what every
// page loads. Shares no code, and so is loaded alone.

import type { Gap, Position } from "./frames.js";
import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS, GAPS_MAX } from "./limits.js";
import type { Room, RoomOptions } from "./room.js";

type AnyRoom = Room<any, any>;

export function report(room: AnyRoom, reason: Gap["reason"], head: number, epoch: string): void {
  const after = room._offset!;
  const isLast = ++room._gaps > GAPS_MAX;
  const turn = room._joinTurn;
  const next = (before = head + 1) => turn === room._joinTurn && goOn(room, { room: room.name, reason, after, before, epoch }, isLast);
  if (isLast) next();
  else if (reason === "epoch") next(1);
  else room._ask("history", {}, ({ messages }) => next(messages[0]?.offset), () => next(), { after, limit: 1 });
}

function goOn(room: AnyRoom, gap: Gap, isLast: boolean): void {
  const { reload } = room._options;
  room._publishing.onGap();
  if (gap.reason === "epoch") room._early.clear();
  room._offset = gap.before - 1;
  room._epoch = gap.epoch;
  room._emit("gap", gap);
  // From the head on: that is what a member gets whose resume could not be honoured.
  room._isCounting = isLast;
  if (isLast) {
    room.head = room._offset;
    room._settle();
  } else if (reload) load(room, gap, reload, 0);
  else room._join();
}

/** The app loads its own state anew, and is asked again while it can't. Leaving ends that. The connection may come and go meanwhile: that does not. */
function load(room: AnyRoom, gap: Gap, reload: NonNullable<RoomOptions["reload"]>, attempt: number): void {
  const mine = (room._reloading = {});
  const isMine = () => room._reloading === mine;
  const onLoaded = (position: Position | void) => {
    if (!isMine()) return;
    room._reloading = undefined;
    if (position) ({ offset: room._offset, epoch: room._epoch } = position);
    room._join();
  };
  const onFailed = (error: unknown) => {
    if (!isMine()) return;
    room._failed(String(error));
    const ms = room._clock.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
    room._clock.setTimeout(() => isMine() && load(room, gap, reload, attempt + 1), ms);
  };
  void (async () => reload(gap))().then(onLoaded, onFailed);
}

// What any runtime must do with the client: say something, see it in its place, and end. Run by runtimes.test.js as it is, by Node, Deno and Bun.

import { Carillon } from "@carillon/client";

const { CARILLON_URL: url, CARILLON_TOKEN: token } = globalThis.process.env;
const carillon = new Carillon({ url, token });
const room = carillon.room("runtimes", { last: 100 });
const published = room.publish(`hello from ${globalThis.Deno ? "Deno" : globalThis.Bun ? "Bun" : "Node"}`);
for await (const { offset, payload, own } of room) {
  if (offset !== (await published).offset) continue;
  console.log(JSON.stringify({ offset, payload, own, transport: carillon.connection.transport }));
  break;
}
carillon.close();

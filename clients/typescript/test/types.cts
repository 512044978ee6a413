// The same types for `require`.

import carillon = require("@carillon/client");

const client: carillon.Carillon = new carillon.Carillon({ url: "https://live.example", token: "t" });
client.room<number>("a").on("message", ({ payload }) => payload.toFixed());

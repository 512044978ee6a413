// A chat that loses nothing: what is missed while away comes, what is written while away goes out, each once.

import { Carillon } from "@carillon/client";
import { useConnection, usePresence, useRoom } from "@carillon/client/react";
import { createRoot } from "react-dom/client";

const { token, url = "http://127.0.0.1:8080" } = Object.fromEntries(new URLSearchParams(location.search));
const carillon = new Carillon({ url, token });

function Chat({ name }) {
  const { messages, pending, failed, publish } = useRoom(carillon, name, { last: 50 });
  const here = usePresence(carillon, name);
  const connection = useConnection(carillon);

  const send = (event) => {
    event.preventDefault();
    const { text } = event.target.elements;
    if (text.value) publish({ text: text.value });
    text.value = "";
  };

  return (
    <main>
      <h1>{name}</h1>
      <p role="status">{connection}, here: {here?.members.map(({ userId }) => userId).join(", ")}</p>
      <ol>
        {messages.map(({ offset, sender, payload }) => <li key={offset}><b>{sender}</b> {payload.text}</li>)}
        {pending.map(({ key, payload }) => <li key={key} className="pending"><b>…</b> {payload.text}</li>)}
        {failed.map(({ key, payload, error }) => (
          <li key={key}>not sent ({error.code}): {payload.text} <button onClick={() => publish(payload, { key })}>Try again</button></li>
        ))}
      </ol>
      <form onSubmit={send}>
        <input name="text" aria-label="Message" autoComplete="off" autoFocus />
        <button>Send</button>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Chat name="chat:lobby" />);

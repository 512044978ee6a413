// Server-Sent Events over `fetch`: unlike an EventSource it sends the token in a header, and tells the status.
// The format is that of the HTML standard, section 9.2.6.

/** One field of the text: `id`, `event`, `data`, `retry`, or `""` for a comment; `dispatch` stands for the empty line. */
export type OnField = (name: string, value: string) => void;

/** Reads the body of an answer to its end. */
export async function readFields(body: ReadableStream<Uint8Array>, onField: OnField): Promise<void> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    // A line may end with CR LF, of which the LF has not come yet.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop()!;
    for (const line of lines) readLine(line, onField);
  }
}

function readLine(line: string, onField: OnField): void {
  if (line === "") return onField("dispatch", "");
  const colon = line.indexOf(":");
  if (colon < 0) return onField(line, "");
  onField(line.slice(0, colon), line.slice(colon + 1).replace(/^ /, ""));
}

const response = await fetch("http://127.0.0.1:8080/rooms/orders/messages", {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.CARILLON_TOKEN}`,
    "Content-Type": "application/json",
    "Idempotency-Key": "order-17-paid",
  },
  body: JSON.stringify({ payload: { order: 17, state: "paid" } }),
  signal: AbortSignal.timeout(10_000),
});
console.log(response.status, await response.text());

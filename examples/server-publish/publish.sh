curl --silent --show-error --max-time 10 http://127.0.0.1:8080/rooms/orders/messages \
  -H "Authorization: Bearer $CARILLON_TOKEN" \
  -H "Content-Type: application/json" \
  -H "Idempotency-Key: order-17-paid" \
  -d '{"payload": {"order": 17, "state": "paid"}}' \
  -w '\n%{http_code}\n'

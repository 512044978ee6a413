import json, os, urllib.request

request = urllib.request.Request(
    "http://127.0.0.1:8080/rooms/orders/messages",
    data=json.dumps({"payload": {"order": 17, "state": "paid"}}).encode(),
    headers={
        "Authorization": f"Bearer {os.environ['CARILLON_TOKEN']}",
        "Content-Type": "application/json",
        "Idempotency-Key": "order-17-paid",
    },
)
with urllib.request.urlopen(request, timeout=10) as response:
    print(response.status, response.read().decode())

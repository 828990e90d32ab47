"""Print a payment order that is valid for five minutes, as a bank would issue it.

python make_order.py [AMOUNT]
"""

import json
import secrets
import sys
import uuid
from datetime import UTC, datetime, timedelta

now = datetime.now(UTC).replace(microsecond=0)
order = {
    "type": "ushield.payment/1",
    "bank": {"id": "demo-bank", "origin": "https://bank.example"},
    "tx_id": str(uuid.uuid4()),
    "order_no": f"TB{now:%Y%m%d}-0001",
    "payer": {"account": "6222020200012345678"},
    "payee": {
        "name": "杭州某某网络有限公司",
        "account": "1202021409900012345",
        "bank": {"name": "中国工商银行", "cnaps": "102100099996"},
    },
    "amount": {"currency": "CNY", "value": sys.argv[1] if len(sys.argv) > 1 else "128.50"},
    "purpose": "网上购物",
    "created": f"{now:%Y-%m-%dT%H:%M:%SZ}",
    "expires": f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}",
    "nonce": secrets.token_urlsafe(32),
}
print(json.dumps(order, ensure_ascii=False, indent=2))

"""Sample descriptors: one with every key, one with the required keys only."""

from __future__ import annotations

WHOLE = """\
id = "shield"
vendor = "Example"
product = "Shield 1"
kind = "token"
interface = "pkcs11"
transport = "ccid"
bank_token = true
confidence = "high"
proven_with = ["shield 1.0"]
notes = ["A note."]
sources = ["https://bank.example"]

[module]
linux = ["/opt/shield/libshield*.so"]
macos = ["/opt/shield/libshield.dylib"]
windows = ['%WINDIR%\\System32\\shield.dll']
isolation = "process"
discover = "named"
deadline_s = 60
relist = true
general = true
names = ["libshield_bank*.so"]
skf = ["libshield_skf.so"]
also_via = ["opensc"]

[module.config]
env = "SHIELD_CONF"
template = "shield.conf"
adds = "lock = true"
extends = ["/etc/shield.conf"]
unless = "(?m)^lock"
init_reserved = "configdir='/etc/shield'"

[confirm]
kind = "display"
text = "message"
timeout_s = 90
codes = { CKR_FUNCTION_REJECTED = "rejected", "CKR_0x80000001" = "timed-out" }

[pin]
flags = "trusted"
policy_tries = 6
min_length = 6
max_length = 12

[pin.unblock]
via = "set-pin-unlogged"

[sign]
hash_on = "token"
rsa_padding = "pss"
always_authenticate = true

[display]
format = "xml-tdm"
max_text = 60
columns = 16
rows = 4

[capabilities]
generate = false
write_certificate = false

[[match.usb]]
vid = "1a2b"
pid = "3c4d"
name = "Shield"
binding = "hid"
pinpad = true
source = "https://bank.example/usb"
confidence = "low"

[[match.atr]]
atr = "3b9f95"
mask = "ffff00"
name = "Shield, first edition"
also_in = ["opensc"]
source = "https://bank.example/atr"
confidence = "medium"

[[match.atr]]
atr = "3b9f9501"
regex = "3b9f950[12]"

[[match.token]]
manufacturer = "Example*"
model = "Shield ?"
"""

USB_AGAIN = """\
[[match.usb]]
vid = "1a2b"
pid = "3c4d"
"""

LEAST = """\
id = "shield"
vendor = "Example"
product = "Shield 1"
kind = "token"
interface = "pkcs11"
confidence = "low"
sources = []
"""

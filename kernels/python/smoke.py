"""Runs inside the image and prints "ok": the interpreter and the parts of its library that users' first lines need are there."""

import ctypes
import json
import sqlite3
import ssl
import sys

assert sys.version_info[:2] == (3, 11), sys.version
assert json.loads(json.dumps({"a": [1, None]})) == {"a": [1, None]}
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 0
assert ctypes.sizeof(ctypes.c_void_p) == 8
print("ok")

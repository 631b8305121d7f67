"""A fake of the model hub's API, for uploads."""

from __future__ import annotations

import base64
import json

TOKEN = "hf_verySecretToken"


class Hub:
    """The part of the hub's API that an upload uses: repositories, upload modes, commits."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.repositories, self.files = status, {}, {}

    def __call__(self, path, headers, body):
        sent = {name.lower(): value for name, value in headers.items()}
        if self.status != 200 or sent.get("authorization") != f"Bearer {TOKEN}":
            return (self.status if self.status != 200 else 401), {}, b'{"error": "no"}'
        path = path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.repositories[asked["organization"] + "/" + asked["name"]] = asked
            return 200, {}, json.dumps({"url": f"http://{sent['host']}/me/it"}).encode()
        if path.endswith("/preupload/main"):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]
            return 200, {}, json.dumps({"files": files}).encode()
        if path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    self.files[record["value"]["path"]] = base64.b64decode(
                        record["value"]["content"]
                    )
            made = {
                "commitUrl": f"http://{sent['host']}/me/it/commit/0",
                "commitOid": "0" * 40,
                "success": True,
            }
            return 200, {}, json.dumps(made).encode()
        return 200, {}, b"{}"

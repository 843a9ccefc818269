"""A bucket of Google Cloud Storage on this machine, for TensorFlow's file system and TensorStore alike.

It answers their requests as https://cloud.google.com/storage/docs/json_api/v1 has it. TensorFlow asks no other host
than Google's: the server is also its HTTPS proxy, and answers for them itself.
"""

import json
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme


@dataclass
class Bucket:
    """What is in it by name, with the generation of each, which every write makes anew; and how it is reached.

    Attributes:
        delay: seconds that each answer takes.
        refuses: status of all answers, where it is not 0.
    """

    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # begun, by their number
    environment: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    refuses: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    generation: int = 0

    def put(self, name: str, content: bytes, query: Mapping[str, str]) -> bool:
        """Whether it was written: only where the generation is the one that was expected."""
        with self.lock:
            expected = query.get("ifGenerationMatch")
            if expected is not None and int(expected) != self.objects.get(name, (0, b""))[0]:
                return False
            self.generation += 1
            self.objects[name] = (self.generation, content)
            return True

    def about(self, name: str) -> dict[str, Any]:
        generation, content = self.objects[name]
        when = {"updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z"}
        return {"name": name, "size": str(len(content)), "generation": str(generation), "bucket": "bucket", **when}

    def listed(self, prefix: str, delimiter: str, start: str, end: str) -> dict[str, Any]:
        names = sorted(name for name in list(self.objects) if name.startswith(prefix) and name >= start)
        names = [name for name in names if not end or name < end]
        deeper = {name: name.find(delimiter, len(prefix)) if delimiter else -1 for name in names}
        prefixes = sorted({name[: at + 1] for name, at in deeper.items() if at >= 0})
        items = [self.about(name) for name, at in deeper.items() if at < 0]
        return {"kind": "storage#objects", "prefixes": prefixes, "items": items}


@contextmanager
def serving(folder: Path) -> Iterator[Bucket]:
    """Serves gs://bucket to processes with its environment; certificates go into the folder."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("www.googleapis.com", "storage.googleapis.com").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    bucket = Bucket()

    class Handler(_Handler):
        pass

    Handler.bucket, Handler.tls = bucket, context
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = f"http://127.0.0.1:{server.server_port}"
        bucket.environment = {
            "https_proxy": here,
            "no_proxy": "localhost,127.0.0.1",  # processes that speak to each other
            "CURL_CA_BUNDLE": str(folder / "authority.pem"),
            "NO_GCE_CHECK": "true",
            "TENSORSTORE_GCS_HTTP_URL": here,
            "STORAGE_EMULATOR_HOST": here,
        }
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield bucket
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket
    tls: ssl.SSLContext

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def do_GET(self) -> None:
        self.answer_request("GET")

    def do_POST(self) -> None:
        self.answer_request("POST")

    def do_PUT(self) -> None:
        self.answer_request("PUT")

    def do_DELETE(self) -> None:
        self.answer_request("DELETE")

    def answer_request(self, method: str) -> None:
        time.sleep(self.bucket.delay)
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        body = self.body()
        if self.bucket.refuses:
            return self.tell({"error": {"message": "refused"}}, self.bucket.refuses)
        path = re.sub("^/storage/v1|^/upload/storage/v1|^/upload|^/download/storage/v1", "", address.path)
        parts = path.strip("/").split("/", 3) if path.startswith("/b/") else ["b", *path.strip("/").split("/", 1)]
        if parts[1] != "bucket":
            return self.tell({"error": {"message": "no such bucket"}}, 404)
        if path.startswith("/b/"):
            name = unquote(parts[3]) if len(parts) == 4 else ""
        else:
            name, query["alt"] = unquote(parts[2]), "media"
        if "upload_id" in query or address.path.startswith("/upload") or method == "PUT":
            self.upload(method, query, body)
        elif "/rewriteTo/b/bucket/o/" in name:
            old, new = name.split("/rewriteTo/b/bucket/o/")
            self.rewrite(old, unquote(new))
        elif not name:
            whole = len(parts) == 2
            lists = (query.get(part, "") for part in ("prefix", "delimiter", "startOffset", "endOffset"))
            self.tell({"name": "bucket", "location": "HERE"} if whole else self.bucket.listed(*lists))
        elif name not in self.bucket.objects:
            self.tell({"error": {"message": "no such object"}}, 404)
        elif method == "DELETE":
            del self.bucket.objects[name]
            self.tell(None, 204)
        elif query.get("alt") == "media":
            self.download(name, query)
        else:
            self.tell(self.bucket.about(name))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def upload(self, method: str, query: dict[str, str], body: bytes) -> None:
        bucket = self.bucket
        if query.get("uploadType") == "resumable" and method == "POST":
            number = str(len(bucket.uploads))
            bucket.uploads[number] = (query["name"], b"")
            here = f"https://www.googleapis.com/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id={number}"
            return self.tell({}, headers={"Location": here})
        if method == "PUT":
            name, before = bucket.uploads[query["upload_id"]]
            content = before + body
            total = self.headers.get("Content-Range", "/*").rpartition("/")[2]
            if total != "*" and len(content) < int(total):
                bucket.uploads[query["upload_id"]] = (name, content)
                return self.tell(None, 308, {"Range": f"bytes=0-{len(content) - 1}"} if content else {})
        else:
            name, content = query["name"], body
        if bucket.put(name, content, query):
            return self.tell(bucket.about(name))
        return self.tell({"error": {"message": "another generation"}}, 412)

    def rewrite(self, old: str, new: str) -> None:
        self.bucket.put(new, self.bucket.objects[old][1], {})
        self.tell({"done": True, "resource": self.bucket.about(new)})

    def download(self, name: str, query: Mapping[str, str]) -> None:
        generation, content = self.bucket.objects[name]
        headers = {"x-goog-generation": str(generation)}
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.tell(None, 304, headers)
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.tell(None, 412, headers)
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.send(content, 200, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self.send(b"", 416, headers)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.send(content[first : last + 1], 206, headers)

    def tell(self, answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send(b"" if answer is None else json.dumps(answer).encode(), status, headers or {})

    def send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

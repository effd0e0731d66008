"""A hub on this machine: as much of the Hugging Face hub's HTTP interface as its client uses here.

Uploads of small files go into the commit, safetensors by the protocol of git LFS.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import ModelCard


class Hub:
    """Repositories in memory, and what was asked for.

    Parameters
    ----------
    token : str
        Who writes or reads must have it.
    """

    def __init__(self, token):
        self.token = token
        self.url = ""
        self.repos = {}  # id -> {branch: {file: bytes}}
        self.commits = {}  # sha -> {file: bytes}
        self.messages = {}  # sha -> commit message
        self.private = {}  # id -> visibility that was asked for
        self.blobs = {}  # of LFS
        self.served = []  # (repository, file) of downloads
        self.tokens = set()

    def add(self, repo_id, files, branch="main", message=""):
        """Commit files to a branch; return the commit."""
        self.repos.setdefault(repo_id, {})[branch] = dict(files)
        sha = hashlib.sha1(repr((repo_id, branch, sorted(files.items()))).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.messages[sha] = message
        return sha

    def at(self, repo_id, revision):
        """The commit of a revision and its files; None if there is none."""
        files = self.repos[repo_id].get(revision)
        if files is None:
            return (revision, self.commits[revision]) if revision in self.commits else None
        return next((sha, files) for sha, found in self.commits.items() if found == files)


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *about):
        pass

    def answer(self, content=b"", status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code="", text=""):
        self.answer({"error": text}, status, X_Error_Code=code, X_Error_Message=text)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self):
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = parse_qs(url.query)
        body = self.body()
        if self.command == "PUT":  # signed, without a token
            self.hub.blobs[parts[-1]] = body
            return self.answer()
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.tokens.add(given)
        if given != self.hub.token:
            # As loud as a careless server could be.
            return self.refuse(401, "", f"Invalid credentials: {given}")
        if parts[-1] == "validate-yaml":
            assert ModelCard(json.loads(body)["content"]).data.library_name
            return self.answer({"errors": [], "warnings": []})
        if parts[:2] == ["api", "repos"]:
            return self.create(json.loads(body))
        if parts[-1] == "batch":
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        is_api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_api else parts[:2])
        what, *rest = (parts[4:] if is_api else parts[2:]) or ["revision", "main"]
        if repo_id not in self.hub.repos:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        answer = getattr(self, f"on_{what}", None)
        if answer is None:
            return self.refuse(404, "EntryNotFound", f"No {what} here")
        return answer(repo_id, rest, query, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, asked):
        repo_id = f"{asked['organization'] or 'me'}/{asked['name']}"
        about = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            return self.answer({**about, "error": "You already created this model repo"}, 409)
        self.hub.private[repo_id] = asked.get("visibility")
        self.hub.add(repo_id, {".gitattributes": b""})
        return self.answer(about)

    def found(self, repo_id, revision):
        found = self.hub.at(repo_id, revision)
        if found is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def on_branch(self, repo_id, rest, query, body):
        if rest[0] in self.hub.repos[repo_id]:
            return self.refuse(409, "", "Reference already exists")
        self.hub.repos[repo_id][rest[0]] = self.hub.repos[repo_id]["main"]
        return self.answer({})

    def on_preupload(self, repo_id, rest, query, body):
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return self.answer({"files": modes})

    def on_commit(self, repo_id, rest, query, body):
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(self.hub.repos[repo_id][rest[0]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        is_proposal = "create_pr" in query
        branch = "refs/pr/1" if is_proposal else rest[0]
        sha = self.hub.add(repo_id, files, branch, lines[0]["value"]["summary"])
        answer = {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", "commitOid": sha}
        if is_proposal:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/1"
        return self.answer(answer)

    def on_revision(self, repo_id, rest, query, body):
        if found := self.found(repo_id, "/".join(rest)):
            siblings = [{"rfilename": name} for name in found[1]]
            self.answer({"id": repo_id, "sha": found[0], "siblings": siblings})

    def on_tree(self, repo_id, rest, query, body):
        if rest[1:]:  # no folder here
            return self.refuse(404, "EntryNotFound", "No such folder")
        if found := self.found(repo_id, rest[0]):
            self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                    for name, content in found[1].items()
                ]
            )

    def on_resolve(self, repo_id, rest, query, body):
        if not (found := self.found(repo_id, rest[0])):
            return
        sha, files = found
        name = "/".join(rest[1:])
        if name not in files:
            self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        if self.command == "GET":
            self.hub.served.append((repo_id, name))
        self.answer(files[name], ETag=f'"{_oid(files[name])}"', X_Repo_Commit=sha)


@contextmanager
def running(token):
    """A hub that answers at its ``url`` until the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(token)
    server.hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

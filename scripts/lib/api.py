"""The control socket of a daemon, for scripts: HTTP and JSON over a Unix socket."""
import http.client
import json
import socket


class Refused(Exception):
    """A problem document."""

    def __init__(self, status, problem):
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status, self.code = status, problem.get("code")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("strongroom")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


class Api:
    """Speaks to the daemon that serves a socket."""

    def __init__(self, path):
        self.path = path

    def text(self, method, path, body=None):
        """The text of a reply; a problem is raised as Refused."""
        connection = _Connection(self.path)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, json.loads(text))
        return text

    def get(self, path):
        return json.loads(self.text("GET", path))

    def post(self, path, body):
        return json.loads(self.text("POST", path, body))

    def counter(self, name):
        """A number from /metrics, by its name without the prefix."""
        for line in self.text("GET", "/metrics").splitlines():
            words = line.split()
            if words and words[0] == f"strongroom_{name}":
                return int(float(words[1]))
        raise KeyError(name)

"""The W&B workspace: defined without an account, saved with one, and a plain word where that can't be."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from runs import call, failure

from saltseg import dashboard

pytest.importorskip("wandb_workspaces")

ACCOUNT = {"id": "VXNlcjox", "entity": "geo", "username": "geo", "email": "", "flags": "{}", "teams": {"edges": []}}
SECTIONS = ["Learning curves", "Threshold", "Which choice matters", "The same validation images"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home without an account, and a W&B that has not looked at another one before."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")
    wandb.teardown()
    yield tmp_path / "run"
    wandb.teardown()


@pytest.fixture
def server(monkeypatch):
    """As much of W&B as the saving of a workspace needs; what it was sent, and what it is to refuse it with."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = {}
            if self.path == "/graphql":
                request = json.loads(body)
                if "upsertView" in request["query"]:
                    sent.append(request["variables"])
                    answer = {"data": {"upsertView": {"view": {"id": "1", "name": "nw-abc-v"}, "inserted": True}}}
                    answer |= {"errors": [{"message": refusal[0]}], "data": None} if refusal else {}
                else:
                    answer = {"data": {"viewer": ACCOUNT}}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    sent, refusal = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield sent, refusal
        http.shutdown()
        thread.join()


def test_it_is_saved_where_there_is_an_account(home, server, capfd):
    sent, _ = server
    call(dashboard.main, "project=salt", f"hydra.run.dir={home}")
    (view,) = sent
    assert (view["entityName"], view["projectName"]) == ("geo", "salt")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == SECTIONS
    assert "/geo/salt?nw=abc" in capfd.readouterr().out


def test_a_refusal_is_passed_on(home, server, capfd):
    sent, refusal = server
    refusal.append("permission denied")
    said = failure(capfd, dashboard.main, "entity=others", f"hydra.run.dir={home}")
    assert "not saved: " in said
    assert "permission denied" in said
    assert sent[0]["entityName"] == "others"


def test_without_an_account_it_is_defined_and_says_what_is_missing(home, capfd):
    said = failure(capfd, dashboard.main, f"hydra.run.dir={home}")
    assert "no account is known here. Run `wandb login` or set WANDB_API_KEY" in said
    assert str(home / "workspace.json") in said
    spec = json.loads((home / "workspace.json").read_text())["spec"]
    assert [s["name"] for s in spec["section"]["panelBankConfig"]["sections"]] == SECTIONS


@pytest.mark.parametrize(
    ("key", "reason"), [("0" * 40, "Failed to authenticate with http://127.0.0.1:9"), ("short", "40")]
)
def test_a_server_that_is_not_there_and_a_key_that_is_none(home, capfd, monkeypatch, key, reason):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", key)
    said = failure(capfd, dashboard.main, f"hydra.run.dir={home}")
    assert "W&B refuses the key of the account, or can't be reached" in said
    assert reason in said

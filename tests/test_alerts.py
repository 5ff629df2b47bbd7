"""Alerts through real servers on this machine, well-behaved and otherwise."""

import json
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from admodels.cli import app
from admodels.nights import alerts
from admodels.nights.alerts import alert, send
from admodels.nights.history import NightSummary

SECRET = "s3cr3t"
BAD_LINE = {"exit_code": 5, "images": 812, "unreadable": 40, "flagged": 12}
NIGHT = {
    "run": "000012",
    "exit_code": 5,
    "started": "2026-11-26T01:30:00+00:00",
    "seconds": 61.5,
    "host": "press",
    "unclaimed": 0,
    "lines": {
        "press_3": {**BAD_LINE, "told": ["more than allowed: unreadable>2%"]},
        "weld": {"exit_code": 0, "images": 100, "unreadable": 0, "flagged": None, "told": []},
    },
}


class Webhook(BaseHTTPRequestHandler):
    """Answers by the path: /200 keeps what came, /500 and /302 refuse, the others misbehave."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hang":
            time.sleep(2)
        elif self.path == "/drip":
            for _ in range(40):
                self.wfile.write(b"H")
                time.sleep(0.05)
        else:
            self.server.got.append(json.loads(body))
            self.send_response(int(self.path.strip("/")))
            self.send_header("Location", "/200")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Mailbox(StreamRequestHandler):
    """SMTP as far as it goes: STARTTLS and AUTH where the server has a context, one mail."""

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline():
            verb = line.decode().split()[0].upper()
            self.server.got.append(line.decode().strip())
            getattr(self, f"do_{verb.lower()}", lambda: self.say("250 fine"))()

    def do_ehlo(self) -> None:
        self.say("250-here\r\n" + "250-STARTTLS\r\n" * bool(self.server.context) + "250 AUTH PLAIN")

    def do_starttls(self) -> None:
        self.say("220 go on")
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def do_auth(self) -> None:
        self.say("535 no" if self.server.refuses else "235 welcome")

    def do_quit(self) -> None:
        self.say("221 bye")

    def do_data(self) -> None:
        self.say("354 go on")
        lines = iter(self.rfile.readline, b".\r\n")
        self.server.mail = b"".join(line[line.startswith(b".") :] for line in lines)
        self.say("250 kept")


@contextmanager
def served(
    handler: type[BaseRequestHandler], **attributes: object
) -> Iterator[tuple[ThreadingTCPServer, str]]:
    server = ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.got = True, []
    for name, value in attributes.items():
        setattr(server, name, value)
    Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield server, f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Of a server whose certificate this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = tmp_path / "server.pem"
    file.write_bytes(key.private_bytes(pem, *plain) + certificate.public_bytes(pem))
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return found


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "STEP_SECONDS", 0.5)
    monkeypatch.setattr(alerts, "DEADLINE_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (*alerts.CHANNELS, "http_proxy", "MONITOR_EXIT_STATUS"):
        monkeypatch.delenv(key, raising=False)


def kept(ledger: Path, **changes: object) -> Path:
    """A ledger whose last night told NIGHT."""
    (ledger / "runs").mkdir(parents=True)
    (ledger / "runs/000012.json").write_text(json.dumps(NIGHT | changes), encoding="utf-8")
    return ledger


def told(monkeypatch: pytest.MonkeyPatch, *words: object, always: bool = False) -> str | None:
    """What arrives at a webhook, None where nothing does."""
    with served(Webhook) as (server, address):
        monkeypatch.setenv(alerts.WEBHOOK, f"http://{address}/200")
        assert alert(*words, always) == []
    assert len(server.got) <= 1
    return server.got[0]["text"] if server.got else None


def test_an_alarm_is_reported_with_its_lines_and_the_next_step(tmp_path: Path, monkeypatch) -> None:
    ledger = kept(tmp_path, page="/plant/pages/000012.html", page_faults=["no room"])
    text = told(monkeypatch, ledger, None, "")
    assert text.splitlines()[1:] == [
        "```",
        "night 000012, 2026-11-26 01:30 UTC, on press",
        "exit code 5: done, with an alarm",
        "next: look at the lines, cameras and inboxes that are named",
        "page: /plant/pages/000012.html",
        "page: no room",
        "lines: 2; 912 images, 40 unreadable, 12 flagged",
        "- press_3: exit code 5, 812 images, 40 unreadable, 12 flagged; "
        "more than allowed: unreadable>2%",
        "```",
    ]
    assert text.splitlines()[0].endswith(": night 000012, exit code 5")


def test_a_good_night_is_reported_only_when_asked(tmp_path: Path, monkeypatch) -> None:
    ledger = kept(tmp_path, exit_code=0)
    assert told(monkeypatch, ledger, None, "") is None
    assert told(monkeypatch, ledger, None, "0") is None
    assert "exit code 0: done" in told(monkeypatch, ledger, None, "", always=True)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("75", "exit code 75: another run is at work"),
        ("KILL", "exit code 137: stopped by signal 9"),
        ("143", "exit code 143: stopped by signal 15"),
        ("99", "exit code 99: a bug"),
        ("0", "exit code 0: done"),
    ],
)
def test_the_summary_of_a_night_before_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch, status: str, words: str
) -> None:
    text = told(monkeypatch, kept(tmp_path), None, status)
    assert words in text
    assert "it wrote no summary" in text
    assert "press_3" not in text


def test_a_night_that_was_killed_or_never_was_is_reported(tmp_path: Path, monkeypatch) -> None:
    ledger = kept(tmp_path / "ledger", exit_code=0)
    (ledger / "scores/press/000013").mkdir(parents=True)
    for where in (ledger, tmp_path / "none"):
        text = told(monkeypatch, where, None, "")
        assert "exit code unknown: the night was killed, or never began" in text
    assert "No such file" in told(monkeypatch, ledger, tmp_path / "no.log", "")


def test_the_end_of_a_log_counts_and_nothing_before_it(tmp_path: Path, monkeypatch) -> None:
    log, ledger = tmp_path / "nightly.log", tmp_path / "none"
    log.write_text("a line\n" + json.dumps(NIGHT) + "\n\n", encoding="utf-8")
    assert "- press_3: exit code 5" in told(monkeypatch, ledger, log, "5")
    with log.open("ab") as file:
        file.write(b"\xff" * 2000 + b"\nBusyError: another run\n  next: wait <!here> `x`\x1b[2J\n")
    text = told(monkeypatch, ledger, log, "75")
    assert "it wrote no summary; the end of its log:" in text
    assert "press_3" not in text
    assert text.endswith("BusyError: another run\n  next: wait (!here> 'x'?[2J\n```")
    assert "exit code unknown" in told(monkeypatch, ledger, log, "")
    log.write_text("", encoding="utf-8")
    assert told(monkeypatch, ledger, log, "2").endswith("it wrote no summary\n```")


def test_a_thousand_failing_lines_make_a_short_message(tmp_path: Path, monkeypatch) -> None:
    line = {**BAD_LINE, "told": ["x" * 5000 + "\nmore"]}
    ledger = kept(tmp_path, lines={f"cam_{at}": line for at in range(1000)})
    text = told(monkeypatch, ledger, None, "")
    assert text.endswith("and 980 more\n```")
    assert len(text) < 8000


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("500", "HTTP Error 500: Internal Server Error"),
        ("302", "HTTP Error 302: Found"),
        (f"{SECRET} x", "InvalidURL"),
    ],
)
def test_a_webhook_that_fails_is_a_sentence_without_the_secret(path: str, fault: str) -> None:
    with served(Webhook) as (_, address):
        faults = send("subject", "body", {alerts.WEBHOOK: f"http://{address}/{path}"})
    assert faults == [f"{alerts.WEBHOOK}: {fault}"]


@pytest.mark.slow
@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    ("path", "fault"), [("hang", "timed out"), ("drip", "no answer after 1 s")]
)
def test_a_webhook_that_keeps_one_waiting_is_left(path: str, fault: str) -> None:
    with served(Webhook) as (_, address):
        faults = send("subject", "body", {alerts.WEBHOOK: f"http://{address}/{path}"})
    assert faults == [f"{alerts.WEBHOOK}: {fault}"]


def test_a_webhook_that_is_none_is_a_sentence() -> None:
    (fault,) = send("s", "b", {alerts.WEBHOOK: "http://127.0.0.1:1/" + SECRET})
    assert "Connection refused" in fault
    (other,) = send("s", "b", {alerts.WEBHOOK: "file:///etc/" + SECRET})
    assert "no http or https address" in other
    assert SECRET not in fault + other
    (none,) = send("s", "b", {})
    assert none.startswith("no alert was sent")


def people(url: str) -> dict[str, str]:
    return {alerts.SMTP: url, alerts.FROM: "a@plant.example", alerts.TO: "b@x.org, c@x.org"}


def test_a_mail_goes_by_starttls_with_a_password(context: ssl.SSLContext) -> None:
    with served(Mailbox, context=context, refuses=False) as (server, address):
        assert send("S\u00fcd", "K\u00f6rper\n.", people(f"smtp://me:p%40ss@{address}")) == []
    mail = message_from_bytes(server.mail, policy=default)
    assert (mail["Subject"], mail["To"]) == ("S\u00fcd", "b@x.org, c@x.org")
    assert abs(mail["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=1)
    assert mail.get_content().splitlines() == ["K\u00f6rper", "."]
    assert server.got[1] == "STARTTLS"
    assert server.got[3] == "AUTH PLAIN AG1lAHBAc3M="
    assert [w for w in server.got if w.startswith("rcpt")] == [
        "rcpt TO:<b@x.org>",
        "rcpt TO:<c@x.org>",
    ]


def test_a_mail_never_goes_in_the_clear_unless_asked() -> None:
    with served(Mailbox, context=None, refuses=False) as (server, address):
        (fault,) = send("s", "b", people(f"smtp://me:{SECRET}@{address}"))
        assert "STARTTLS extension not supported" in fault
        (fault,) = send("s", "b", people(f"smtp-plain://me:{SECRET}@{address}"))
        assert "a password goes by smtp:// or smtps:// only" in fault
        assert not hasattr(server, "mail")
        assert send("s", "b", people(f"smtp-plain://{address}")) == []
    assert server.mail.endswith(b"\r\n\r\nb\r\n")
    assert not [words for words in server.got if "AUTH" in words]


def test_a_mail_server_that_fails_is_a_sentence_without_the_secret(
    context: ssl.SSLContext, monkeypatch
) -> None:
    with served(Mailbox, context=context, refuses=True) as (_, address):
        (refused,) = send("s", "b", people(f"smtp://me:{SECRET}@{address}"))
        monkeypatch.delenv("SSL_CERT_FILE")
        (distrusted,) = send("s", "b", people(f"smtp://me:{SECRET}@{address}"))
    assert "535" in refused
    assert "CERTIFICATE_VERIFY_FAILED" in distrusted
    (gone,) = send("s", "b", people(f"smtps://me:{SECRET}@127.0.0.1:1"))
    assert "Connection refused" in gone
    (wrong,) = send("s", "b", people(f"mail://me:{SECRET}@x"))
    (port,) = send("s", "b", people(f"smtp://me:{SECRET}@x:port"))
    (nobody,) = send("s", "b", people(f"smtp://me:{SECRET}@x") | {alerts.TO: ""})
    assert nobody.endswith("ADMODELS_ALERT_TO is not set")
    assert SECRET not in refused + distrusted + gone + wrong + port + nobody


@pytest.mark.slow
@pytest.mark.usefixtures("hurry")
def test_a_mail_server_that_hangs_is_left() -> None:
    class Silent(BaseRequestHandler):
        def handle(self) -> None:
            time.sleep(2)

    with served(Silent) as (_, address):
        assert send("s", "b", people(f"smtp-plain://{address}"))[0].endswith("timed out")


def test_the_command_ends_with_0_whatever_happens(tmp_path: Path, monkeypatch, capsys) -> None:
    kept(tmp_path)
    monkeypatch.setenv(alerts.WEBHOOK, "http://127.0.0.1:1/" + SECRET)
    monkeypatch.setenv("MONITOR_EXIT_STATUS", "KILL")
    monkeypatch.setattr(sys, "argv", ["admodels", "alert", "--ledger", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        app.main()
    stderr = capsys.readouterr().err
    assert not end.value.code
    assert stderr.startswith("alert: ADMODELS_ALERT_WEBHOOK: ")
    assert "Connection refused" in stderr
    assert SECRET not in stderr


def test_the_link_leads_to_where_the_pages_are_served_and_its_secret_is_in_no_message(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    ledger = kept(tmp_path / "plant/ledger", page="/plant/ledger/pages/000012.html")
    plant = {"schema": 1, "timezone": "UTC", "page_url": "https://${TOKEN}@pages/night/"}
    (ledger.parent / "plant.yaml").write_text(json.dumps(plant), encoding="utf-8")
    monkeypatch.setenv("TOKEN", SECRET)
    with served(Webhook) as (server, address):
        monkeypatch.setenv(alerts.WEBHOOK, f"http://{address}/200")
        for _ in range(2):
            monkeypatch.setattr(sys, "argv", ["admodels", "alert", "--plant", str(ledger.parent)])
            with pytest.raises(SystemExit):
                sys.exit(app.main())
            monkeypatch.delenv("TOKEN", raising=False)
    with_link, without = (got["text"] for got in server.got)
    assert f"page: https://{SECRET}@pages/night/000012.html" in with_link
    assert "page: /plant/ledger/pages/000012.html" in without
    printed = capsys.readouterr()
    assert printed.err == "alert: no link to the page: TOKEN is not set\n"
    assert SECRET not in printed.out + printed.err


def test_a_night_is_a_few_words_for_people_and_names_steer_no_terminal() -> None:
    lines = NIGHT["lines"] | {"\x1b[2J": NIGHT["lines"]["weld"]}
    night = NightSummary.of(json.dumps(NIGHT | {"page": "/p/000012.html", "lines": lines}))
    assert alerts.summary_text(night).splitlines() == [
        "night 000012, 2026-11-26 01:30 UTC, on press",
        "exit code 5: done, with an alarm",
        "next: look at the lines, cameras and inboxes that are named",
        "page: /p/000012.html",
        "lines: 3; 1012 images, 40 unreadable, 12 flagged",
        "- press_3: exit code 5, 812 images, 40 unreadable, 12 flagged; "
        "more than allowed: unreadable>2%",
        "- weld: 100 images, 0 unreadable, no verdicts",
        "- ?[2J: 100 images, 0 unreadable, no verdicts",
    ]

"""Who may ask: keys, cookies, CSRF tokens, host names; and the headers on every answer."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from farm.jobs import users
from tests.support.web import API, WebFarm

CHANGING = {"POST", "PUT", "PATCH", "DELETE"}


def token_of(browser: FlaskClient) -> str:
    """The CSRF token of a logged-in browser, as its pages carry it."""
    with browser.application.test_request_context():
        pass
    with browser.session_transaction() as session:
        session.setdefault("csrf_token", "f" * 40)
        raw = session["csrf_token"]
    from itsdangerous import URLSafeTimedSerializer

    return str(URLSafeTimedSerializer(browser.application.secret_key, salt="wtf-csrf-token").dumps(raw))


def concrete(rule: str) -> str:
    """A path that a rule matches."""
    return re.sub(r"<[^>]+>", "x", rule)


def test_the_key_is_kept_where_only_its_owner_reads_it(farm: WebFarm):
    path = farm.folder / "api-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("farm_")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Bearer farm_abcd_wrong", "Basic Zm9vOmJhcg=="]
)
def test_without_a_valid_key_the_api_says_401(farm: WebFarm, header: str):
    answer = farm.http.get(f"{API}/jobs", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.mimetype == "application/problem+json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.get_json()["code"] == "unauthenticated"


def test_every_route_but_a_few_needs_a_login(farm: WebFarm):
    public = {"/login", "/logout", "/healthz", "/readyz", f"{API}/openapi.json", "/favicon.ico"}
    for rule in farm.app.url_map.iter_rules():
        path = concrete(rule.rule)
        if path in public or path.startswith(("/static/", "/assets/")):
            continue
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            answer = farm.http.open(path, method=method, headers={"Accept": "application/json"})
            assert answer.status_code == 401, (method, path)


def test_a_browser_without_a_session_is_sent_to_the_login_and_back(farm: WebFarm):
    answer = farm.http.get("/queue?state=failed", headers={"Accept": "text/html"})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login?next=/queue?state%3Dfailed"


def test_the_link_of_the_console_logs_in_and_goes_on(farm: WebFarm):
    browser = farm.app.test_client()
    answer = browser.get(f"/login?token={farm.key}&next=/queue")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/queue"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert farm.key not in cookie
    assert browser.get(f"{API}/jobs").status_code == 200


def test_the_login_never_leads_to_another_site(farm: WebFarm):
    answer = farm.app.test_client().get(f"/login?token={farm.key}&next=//evil.example/x")
    assert answer.headers["Location"] == "/"


def test_a_wrong_link_opens_no_session(farm: WebFarm):
    browser = farm.app.test_client()
    assert browser.get("/login?token=farm_aaaa_bbbb").status_code == 401
    assert browser.get(f"{API}/jobs").status_code == 401


def test_the_form_logs_in_with_its_token_only(farm: WebFarm):
    browser = farm.app.test_client()
    browser.get("/login")
    assert browser.post("/login", data={"key": farm.key}).status_code == 403
    answer = browser.post("/login", data={"key": farm.key, "csrf_token": token_of(browser), "next": "/queue"})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/queue"
    assert browser.get(f"{API}/jobs").status_code == 200
    assert browser.post("/logout", data={"csrf_token": token_of(browser)}).status_code == 302
    assert browser.get(f"{API}/jobs").status_code == 401


def test_logging_in_ends_what_the_session_held_before(farm: WebFarm):
    browser = farm.app.test_client()
    with browser.session_transaction() as session:
        session["planted"] = "by somebody else"
        session["csrf_token"] = "known to somebody else"
    browser.get(f"/login?token={farm.key}")
    with browser.session_transaction() as session:
        assert "planted" not in session
        assert session.get("csrf_token") != "known to somebody else"


def test_revoking_a_key_ends_its_sessions(farm: WebFarm):
    browser = farm.browser()
    assert browser.get(f"{API}/jobs").status_code == 200
    now = datetime.now(UTC)
    with farm.services.sessions.begin() as session:
        for row in users.list_keys(session, farm.owner_id):
            users.revoke_key(session, farm.owner_id, row["id"], now)
    assert browser.get(f"{API}/jobs").status_code == 401
    assert farm.get("/jobs").status_code == 401


def test_a_forged_cookie_opens_nothing(farm: WebFarm):
    browser = farm.app.test_client()
    browser.set_cookie("farm_session", "eyJrZXlfcHJlZml4IjoieCJ9.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb")
    assert browser.get(f"{API}/jobs").status_code == 401


def test_every_changing_request_by_cookie_needs_the_token(farm: WebFarm):
    browser = farm.browser()
    seen = 0
    for rule in farm.app.url_map.iter_rules():
        for method in (rule.methods or set()) & CHANGING:
            for headers in ({}, {"X-CSRFToken": "wrong"}):
                answer = browser.open(concrete(rule.rule), method=method, headers=headers)
                assert answer.status_code == 403, (method, rule.rule, answer.status_code)
                assert answer.get_json()["code"] == "csrf"
                seen += 1
    assert seen > 30


def test_with_the_token_a_cookie_may_change_things(farm: WebFarm):
    browser = farm.browser()
    body = {"name": "mine", "spec": {"steps": 4}}
    saved = browser.post(f"{API}/presets", json=body, headers={"X-CSRFToken": token_of(browser)})
    assert saved.status_code == 201
    gone = browser.delete(
        f"{API}/presets/{saved.get_json()['id']}", headers={"X-CSRFToken": token_of(browser)}
    )
    assert gone.status_code == 204


def test_the_token_of_another_session_is_refused(farm: WebFarm):
    mine, other = farm.browser(), farm.browser()
    with other.session_transaction() as session:
        session["csrf_token"] = "0" * 40
    with mine.session_transaction() as session:
        session["csrf_token"] = "1" * 40
    answer = mine.post(f"{API}/presets", json={}, headers={"X-CSRFToken": token_of(other)})
    assert answer.status_code == 403


def test_a_key_needs_no_token(farm: WebFarm):
    assert farm.post("/presets", {"name": "mine", "spec": {}}).status_code == 201


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8484", "[::2]"]
)
def test_other_host_names_are_refused(farm: WebFarm, host: str):
    answer = farm.get("/jobs", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.get_json()["code"] == "unknown_host"
    assert "FARM_ALLOWED_HOSTS" in answer.get_json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8484", "127.0.0.1:1", "[::1]:8484"])
def test_its_own_host_names_are_fine(farm: WebFarm, host: str):
    assert farm.get("/jobs", headers={"Host": host}).status_code == 200


def test_probes_may_use_any_host_and_need_no_key(farm: WebFarm):
    assert farm.http.get("/healthz", headers={"Host": "10.1.2.3"}).get_json() == {"status": "ok"}
    ready = farm.http.get("/readyz", headers={"Host": "10.1.2.3"})
    assert ready.status_code == 200
    assert ready.get_json()["checks"] == {"database": "ok", "store": "ok", "redis": "ok"}


@pytest.mark.parametrize("path", ["/login", f"{API}/jobs", "/nowhere", "/healthz", f"{API}/openapi.json"])
def test_every_answer_carries_the_guarding_headers(farm: WebFarm, path: str):
    headers = farm.http.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe-eval" not in headers["Content-Security-Policy"]
    assert farm.services.store_origin in headers["Content-Security-Policy"]
    assert len(headers["X-Request-Id"]) == 26
    assert "Access-Control-Allow-Origin" not in headers


def test_each_answer_has_a_nonce_of_its_own(farm: WebFarm):
    policies = {farm.http.get("/login").headers["Content-Security-Policy"] for _ in range(3)}
    assert len(policies) == 3


def test_guessing_keys_is_slowed_down(farm: WebFarm):
    for _ in range(20):
        assert farm.get("/jobs", key="farm_aaaa_wrong").status_code == 401
    answer = farm.get("/jobs", key="farm_aaaa_wrong")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert farm.app.test_client().get("/login?token=farm_aaaa_wrong").status_code == 429

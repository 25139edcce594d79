"""PostgreSQL shows a transaction the rows of the tenant that it has named, whoever runs it, whatever it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from control_plane.store.errors import StoreError
from control_plane.store.event_store import EventStore, open_store
from control_plane.store.records import Cause, NewEvent
from control_plane.store.refusals import RefusedRequest

CAUSE = Cause("ada", 0, key="k")
GUARDED = ["events", "requests", "refusals", "refusal_heads"]
_numbers = count()


pytestmark = pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)


@pytest.fixture(params=["superuser", "owner", "owner who may make no roles"])
def url(request: pytest.FixtureRequest, database_url: str) -> str:
    """Of a database, as the role that is named in its settings sees it."""
    if request.param == "superuser":
        return database_url
    owner = f"owner{next(_numbers)}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {owner} LOGIN {'CREATEROLE' if request.param == 'owner' else ''}")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} OWNER TO {owner}")
    return database_url.replace("://postgres@", f"://{owner}@")


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    store = open_store(url)
    for tenant in ("shop", "bank"):
        store.append(tenant, 0, [NewEvent("tenant", "TenantCreated", {"title": tenant})], CAUSE)
        store.refusals.add(tenant, [RefusedRequest(tenant, 0, "ada", True, "", "GET /", 403, "p", "d")])
    yield store
    store.close()


@pytest.mark.parametrize("table", GUARDED)
def test_a_query_sees_its_tenant_alone(store: EventStore, table: str) -> None:
    for tenant, seen in (("shop", ["shop"]), ("bank", ["bank"]), ("nobody", []), ("", [])):
        with store.database.reading(tenant) as execute:
            assert execute(f"SELECT tenant FROM {table}") == [(each,) for each in seen]
            # Also where a condition was forgotten, or is somebody else's.
            assert execute(f"SELECT count(*) FROM {table} WHERE tenant <> ?", (tenant,)) == [(0,)]
    with store.database.reading() as execute:
        assert execute(f"SELECT tenant FROM {table}") == []


def test_nothing_is_seen_by_a_connection_that_was_another_tenants(store: EventStore) -> None:
    """There are eight of them, and one is enough for one thread."""
    assert len(store.read("shop")) == 1
    with store.database.reading() as execute:
        assert execute("SELECT current_setting('app.tenant', true)") == [("",)]
        assert execute("SELECT * FROM events") == []


def test_nothing_is_written_for_another_tenant(store: EventStore) -> None:
    statements = [
        "INSERT INTO events VALUES ('bank', 2, 's', 'k', '{}', 'eve', '', '', 0, 'd')",
        "INSERT INTO requests VALUES ('bank', 'k2', 'f', 1, 1)",
        "INSERT INTO heads VALUES ('cafe', 1, 'd')",
        "INSERT INTO lane_sums VALUES ('bank', 'p', 1, '{}')",
        "INSERT INTO agent_sights VALUES ('bank', 'p', '', '')",
        "INSERT INTO lane_volumes VALUES ('bank', 1, 'p', 'l', 'egress', 1)",
    ]
    for statement in statements:
        with pytest.raises(StoreError, match="row-level security"), store.database.writing("shop") as execute:
            execute.later(statement)
    with store.database.writing("shop") as execute:
        execute.later("UPDATE heads SET position = 7 WHERE tenant = 'bank'")
        execute.later("DELETE FROM refusals WHERE tenant = 'bank'")
    assert store.verify("bank").position == 1
    assert len(store.refusals.read("bank", 0, 10, 0)) == 1


def test_names_of_tenants_are_all_that_is_seen_of_others(store: EventStore) -> None:
    assert store.heads().keys() == {"shop", "bank"}
    with store.database.reading() as execute:
        assert execute("SELECT count(*) FROM heads") == [(2,)]


def test_what_runs_owns_nothing(store: EventStore, url: str) -> None:
    """So that it cannot take the policies away, where the role in the settings may make another."""
    with store.database.reading("shop") as execute:
        [(role, superuser, bypass)] = execute(
            "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
    assert (superuser, bypass) == (False, False)
    if role == "podlane_app":
        with pytest.raises(StoreError, match="must be owner"), store.database.writing("shop") as execute:
            execute.later("ALTER TABLE events DISABLE ROW LEVEL SECURITY")
    else:
        assert role == url.partition("://")[2].partition("@")[0]


def test_every_table_with_a_tenant_is_guarded(store: EventStore, url: str) -> None:
    del store
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class JOIN pg_attribute ON attrelid = "
            "pg_class.oid WHERE relkind = 'r' AND attname = 'tenant' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    # Positions alone, and of who publishes all.
    assert {name for name, guarded in rows if not guarded} == {"published"}
    assert dict(rows).keys() > {*GUARDED, "heads"}

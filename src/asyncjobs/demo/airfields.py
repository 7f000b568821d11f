"""The real input: the airfields of `airportsdata`. A country is a tenant, its airfields are its stations."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import airportsdata

from asyncjobs import Connection

Airfield = Mapping[str, Any]
Countries = Mapping[str, list[Airfield]]


def by_country() -> Countries:
    """Every airfield there is, in the order of the codes of the countries and of their airfields."""
    countries: dict[str, list[Airfield]] = {}
    for _, airfield in sorted(airportsdata.load().items()):
        countries.setdefault(airfield["country"], []).append(airfield)
    return dict(sorted(countries.items()))


async def load(db: Any, countries: Countries) -> None:
    """Make the application's tables, and fill them."""
    await db.execute(files("asyncjobs.demo").joinpath("tables.sql").read_text())
    stations = [tuple(airfield.values()) for airfields in countries.values() for airfield in airfields]
    await db.copy_records_to_table("stations", records=stations)


async def spoil(db: Connection, tenant: str) -> None:
    """Make each attempt at the tenant's export fail: in the database, so that the application stays as it is."""
    await db.execute(f"""
        create function refuse() returns trigger language plpgsql as $$
        begin raise 'the export of % is spoiled, as --break asked', old.tenant; end $$;
        create trigger spoiled before update on exports for each row when (old.tenant = '{tenant}')
        execute function refuse();
    """)

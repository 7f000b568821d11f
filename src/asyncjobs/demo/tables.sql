-- The application's own tables. A station is one airfield of the data set, under the names it has there.
create table stations (
  icao text primary key,
  iata text not null,
  name text not null,
  city text not null,
  subd text not null,
  country text not null,
  elevation float8 not null,
  lat float8 not null,
  lon float8 not null,
  tz text not null,
  lid text not null
);
create index on stations (country);

create table exports (
  job bigint primary key,
  tenant text not null,
  requested_at timestamptz not null default now(),
  finished_at timestamptz,
  stations integer,
  csv text
);
create index on exports (tenant);

-- Deal turns to the jobs that wait in line, until of each queue so many lie ready (0007_turns.sql).
-- $1 text[] queues, '' for every one   $2 text[] kinds this process knows, sorted   $3 smallint, $4 smallint the priorities it takes
-- $5 integer how many are to lie ready
-- Returns the lanes that have lines, and how many jobs of each now may be claimed.
select queue_name, kind_name, dealt
  from asyncjobs.deal_turns($1::text[], $2::text[], $3::smallint, $4::smallint, $5::integer)

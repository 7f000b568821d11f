-- Take the turn to close for other jobs, so that a suspect may run here alone; nothing while another runner has it.
-- $1 float8  the most seconds it may last. Returns how many it does; each try in vain makes the next one twice as long.
update asyncjobs.solitude
   set closed_until = clock_timestamp() + patience * interval '1 s', patience = least(patience * 2::float8, $1::float8)
 where only_row in (select only_row from asyncjobs.solitude where closed_until <= clock_timestamp() for update skip locked)
returning extract(epoch from closed_until - clock_timestamp())::float8

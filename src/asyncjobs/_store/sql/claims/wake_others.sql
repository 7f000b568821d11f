-- Wake idle runners for queues this one has no slot left for, whose jobs it had promised to take itself.
-- $1 text[] queues. The locks of this session's own announcements do not count (asyncjobs.wake).
select count(asyncjobs.wake(queue)) from unnest($1::text[]) queue

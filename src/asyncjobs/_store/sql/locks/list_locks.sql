-- Who holds locks, for people. A lock that was handed over is held by a job that is about to be claimed.
select key, slot, job, token, since from asyncjobs.locks order by key, slot

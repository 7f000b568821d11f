-- Who holds locks, for people. A lock that was handed over is held by a job that is about to be claimed.
select locks.key, locks.slot, locks.job, locks.token, locks.since, live.kind, live.method
  from asyncjobs.locks
  left join asyncjobs.live_jobs live on live.id = locks.job
 order by locks.key, locks.slot

-- The jobs that runners hold, and who holds each.
select id, kind, method, queue, priority, attempt, max_attempts, tags, started_at, cancel_requested,
       runner, runner_name, runner_host, runner_pid, runner_seen_at
  from asyncjobs.job_states
 order by id
